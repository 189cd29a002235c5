# SPDX-License-Identifier: MIT
"""`caravan bench MODEL`: how fast a line of workers is, as llama-bench tells it of one machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import click

from coordinator.benching import Bench, BenchResult, BenchTest
from coordinator.cli.console import emit, say
from coordinator.cli.exits import ExitCode, StoppedError, UserError
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import open_arguments, opened
from coordinator.cli.options import LineOptions, line_options, local_option, model_argument, option
from coordinator.cli.progress import StepProgress
from coordinator.cli.settings import debug_option
from coordinator.mesh import Mesh
from coordinator.plan import Plan
from coordinator.plan_data import plan_as_data
from native import read_layout
from protos.sizes import size

_HEAD = ("model", "size", "params", "backend", "stages", "test", "t/s")


class _Numbers(click.ParamType[tuple[int, ...]]):
    name = "N,N,..."

    def __init__(self, least: int) -> None:
        self._least = least

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isascii() and part.isdecimal() and int(part) >= self._least for part in parts):
            self.fail(f"{value!r} is not a list of numbers from {self._least} up, such as 128,512", param, ctx)
        return tuple(dict.fromkeys(map(int, parts)))


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is measured: the model's bytes and parameters, and the plan of each line."""

    model: str
    n_bytes: int
    n_params: int
    plans: tuple[Plan, ...]


@click.command("bench")
@model_argument()
@option(
    "--prompt-tokens",
    "-p",
    default="512,2048",
    type=_Numbers(0),
    help="Tests that compute a prompt of so many tokens; 0: none.",
)
@option("--gen-tokens", "-n", default="128", type=_Numbers(0), help="Tests that generate so many tokens; 0: none.")
@option("--streams", default="1,4", type=_Numbers(1), help="Streams at a time of those that generate.")
@option("--repetitions", "-r", default=5, type=click.IntRange(min=1), metavar="N", help="How often each test runs.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@local_option
@line_options
@debug_option
def command(
    model: str,
    prompt_tokens: tuple[int, ...],
    gen_tokens: tuple[int, ...],
    streams: tuple[int, ...],
    repetitions: int,
    as_json: bool,
    local: int,
    line: LineOptions,
) -> int:
    """Measure how fast MODEL is over a line of workers, and say what limits it.

    The tests are llama-bench's: pp512 computes a prompt of 512 tokens, tg128 generates 128 behind one token; tg128 x4
    is the sum of four streams at a time. Ctrl-C prints what is done so far.

    \b
    caravan bench model.gguf
    caravan bench model.gguf --streams 1,8,32 --repetitions 3 --json
    """  # fmt: skip
    asked = [BenchTest(n_prompt=n) for n in prompt_tokens if n]
    asked += [BenchTest(n_generated=n, n_streams=n_streams) for n in gen_tokens if n for n_streams in streams]
    if not asked:
        raise click.UsageError("--prompt-tokens and --gen-tokens are both 0: there is nothing to measure")
    arguments = open_arguments(line) | {"local_workers": local}
    arguments["parallel"] = max(line.parallel, *(test.n_streams for test in asked))
    results: list[BenchResult] = []
    stopped: StoppedError | None = None
    with interruptible(), opened(model, **arguments) as mesh:
        subject = _subject(mesh)
        try:
            _measure(mesh, _possible(asked, mesh.n_ctx), repetitions, results)
        except StoppedError as error:
            stopped = error
    if as_json:
        emit(json.dumps(_as_data(subject, results, is_whole=stopped is None), indent=2) + "\n")
    else:
        emit("".join(f"{row}\n" for row in _shown(subject, results)))
    return ExitCode.OK if stopped is None else stopped.exit_code


def _possible(asked: Sequence[BenchTest], n_ctx: int) -> list[BenchTest]:
    """Those that the context has room for; of the others it is told.

    Raises:
        UserError: None of them.
    """
    possible = [test for test in asked if test.n_ctx <= n_ctx]
    if not possible:
        raise UserError(f"a context of {n_ctx} tokens has room for none of the tests: ask for shorter ones, or a larger"
                        " --context")  # fmt: skip
    for test in asked:
        if test not in possible:
            say(f"{test.name} is left out: it takes {test.n_ctx} tokens of context, and there are {n_ctx} (--context)")
    return possible


def _measure(mesh: Mesh, tests: Sequence[BenchTest], n_repetitions: int, results: list[BenchResult]) -> None:
    """Adds each result when it is there."""
    bench = Bench(mesh)
    with StepProgress() as steps:
        for number, test in enumerate(tests):
            what = f"{test.name} ({number + 1} of {len(tests)})"
            steps(what, 0.0)

            def on_done(n_done: int, what: str = what) -> None:
                steps(what, n_done / n_repetitions)

            results.append(bench.run(test, n_repetitions, on_done))


def _subject(mesh: Mesh) -> _Subject:
    layout = read_layout(mesh.model_path)
    n_params = sum(tensor.n_elements for tensor in layout.tensors)
    return _Subject(mesh.model_name, layout.n_bytes, n_params, mesh.plans)


def _shown(subject: _Subject, results: Sequence[BenchResult]) -> Iterator[str]:
    """A table as llama-bench's, and what limited each test."""
    if not results:
        return
    stages = [stage for plan in subject.plans for stage in plan.stages]
    about = (
        subject.model,
        size(subject.n_bytes),
        _count(subject.n_params),
        ",".join(dict.fromkeys(stage.device for stage in stages)),
        str(len(stages)),
    )
    speeds = [(*about, each.test.name, f"{each.median:.2f} ± {each.deviation:.2f}") for each in results]
    for number, row in enumerate(_padded([_HEAD, *speeds])):
        yield row
        if number == 0:
            yield "|" + "|".join("-" * len(cell) for cell in row[1:-1].split("|")) + "|"
    yield ""
    for each in results:
        slowest, fastest = min(each.tokens_per_s), max(each.tokens_per_s)
        yield (
            f"{each.test.name}: {slowest:.2f} to {fastest:.2f} t/s, TTFT {each.ttft_s * 1000:.0f} ms. "
            + " ".join(each.limits)
        )


def _padded(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells between bars, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]


def _count(n_params: int) -> str:
    """As llama-bench has it: "8.03 B"."""
    return f"{n_params / 1e9:.2f} B" if n_params >= 1e9 else f"{n_params / 1e6:.2f} M"


def _as_data(subject: _Subject, results: Sequence[BenchResult], *, is_whole: bool) -> dict[str, object]:
    return {
        "model": subject.model,
        "n_bytes": subject.n_bytes,
        "n_params": subject.n_params,
        "lines": [plan_as_data(plan) for plan in subject.plans],
        "is_whole": is_whole,
        "tests": [
            {"test": each.test.name, **asdict(each.test), "tokens_per_s": each.tokens_per_s, "median": each.median,
             "deviation": each.deviation, "ttft_s": each.ttft_s, "limits": each.limits}
            for each in results
        ],
    }  # fmt: skip
