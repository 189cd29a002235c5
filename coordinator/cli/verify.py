# SPDX-License-Identifier: MIT
"""`caravan verify MODEL`: a line held against llama.cpp alone on this machine; who disagrees is named."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from dataclasses import asdict

import click

from coordinator.cli.console import emit
from coordinator.cli.exits import ExitCode
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import open_arguments
from coordinator.cli.options import LineOptions, line_options, local_option, model_argument, option
from coordinator.cli.progress import StepProgress, load_progress
from coordinator.cli.settings import debug_option
from coordinator.options import MeshOptions
from coordinator.plan import columns, shown
from coordinator.verification import (
    CheckedLine,
    CheckedWorker,
    Difference,
    Judgement,
    Verification,
    VerifyOptions,
    verify,
)

_HEAD = ("worker", "device", "layers", "judgement", "same top", "mean KL", "max KL", "max logit")


@click.command("verify")
@model_argument()
@option(
    "--text",
    multiple=True,
    metavar="TEXT",
    show_default=False,
    help="Compare on this text; may be given several times.  [default: three of caravan's own]",
)
@option(
    "--single",
    default=16,
    type=click.IntRange(min=0),
    metavar="N",
    help="How many last tokens of each text go through the line one by one, as generated ones do.",
)
@option(
    "--reference-device",
    default="CPU",
    metavar="NAME",
    help="The device of this machine that computes the reference, as caravan doctor names devices.",
)
@option(
    "--tolerance",
    default=0.01,
    type=click.FloatRange(0),
    metavar="X",
    help="The mean KL divergence up to which a device of another kind counts as rounding otherwise.",
)
@option("--json", "as_json", is_flag=True, help="Print JSON; progress of loading too, on stderr.")
@local_option
@line_options
@debug_option
def command(
    model: str,
    text: tuple[str, ...],
    single: int,
    reference_device: str,
    tolerance: float,
    as_json: bool,
    local: int,
    line: LineOptions,
) -> int:
    """Compare the logits of a line with those of llama.cpp alone on this machine, and name the worker that disagrees.

    The model is loaded as by `caravan run`; then the same tokens are computed here. Exits with 0 where they agree and
    with 4 where they do not.

    \b
    caravan verify model.gguf
    caravan verify model.gguf --layers 0-11,12-23 --reference-device CUDA0
    """  # fmt: skip
    options = MeshOptions(model, local_workers=local, **open_arguments(line))
    asked = VerifyOptions(text, single, reference_device, tolerance)
    with interruptible():
        done = asyncio.run(_verified(options, asked, as_json=as_json))
    emit((json.dumps(_as_data(done), indent=2) if as_json else "\n".join(_shown(done))) + "\n")
    return ExitCode.OK if done.agrees else ExitCode.DISAGREES


async def _verified(options: MeshOptions, asked: VerifyOptions, *, as_json: bool) -> Verification:
    with load_progress(as_json=as_json) as loading, StepProgress() as steps:

        def on_step(what: str, fraction: float) -> None:
            loading.end()
            steps(what, fraction)

        return await verify(options, asked, loading, on_step)


def _shown(done: Verification) -> Iterator[str]:
    """What was compared, a table for each line, and what it means."""
    n_rows = done.lines[0].difference.n_rows
    yield (
        f"{done.model} against llama.cpp alone on {done.reference}: {done.n_texts} texts, {done.n_tokens} tokens, "
        f"{n_rows} rows of logits"
    )
    if done.note:
        yield done.note
    for number, line in enumerate(done.lines, 1):
        if len(done.lines) > 1:
            yield f"line {number} of {len(done.lines)}"
        yield from columns([_HEAD, *map(_row, line.workers), _last_row(line)])
        yield from _meaning(line)


def _row(worker: CheckedWorker) -> tuple[str, ...]:
    layers = f"{worker.layers.start}-{worker.layers.end - 1}"
    return (worker.worker, worker.device, layers, str(worker.judgement), *_figures(worker.difference))


def _last_row(line: CheckedLine) -> tuple[str, ...]:
    return ("all", "", "", str(line.judgement), *_figures(line.difference))


def _figures(difference: Difference | None) -> tuple[str, ...]:
    if difference is None:
        return ("", "", "", "")
    return (
        f"{difference.n_same_top} of {difference.n_rows}",
        *(f"{value:.2g}" for value in (difference.mean_kl, difference.max_kl, difference.max_logit)),
    )


def _meaning(line: CheckedLine) -> Iterator[str]:
    if line.judgement is Judgement.SAME:
        yield "The line computes what llama.cpp computes alone, to the bit."
        return
    if line.judgement is Judgement.ROUNDS:
        yield (
            "The line differs from one device as devices of different kinds do, which round otherwise; no worker is "
            "beyond the tolerance."
        )
        return
    wrong = [worker for worker in line.workers if worker.judgement is Judgement.DISAGREES]
    yield from map(_complaint, wrong)
    if not wrong:
        yield (
            "The line computed something else once, and not again when its workers were looked at one by one: some "
            "memory or some link does not keep what it is given. Verify again, also with more --text."
        )
    elif line.workers.index(wrong[-1]):
        yield f"Workers before {wrong[-1].worker} were seen through it: verify again when it is mended."


def _complaint(worker: CheckedWorker) -> str:
    where = f"{worker.worker} at {worker.address}" + (f" on {worker.host}" if worker.host else "")
    if worker.n_missampled:
        return (
            f"{where} disagrees with itself: {worker.n_missampled} of the tokens that it sampled are not the likeliest "
            "by its own logits. Start that worker again."
        )
    assert worker.difference is not None
    how_much = f"{shown(worker.layers)} computed there change logits by up to {worker.difference.max_logit:.2g}"
    why = "though its device is as the reference's" if worker.is_alike else "which is more than rounding"
    return (
        f"{where} disagrees: {how_much} (mean KL {worker.difference.mean_kl:.2g}), {why}. Its weights, its memory or "
        "its driver are not right: run `caravan cache verify` there, and start that worker again; a model folder of "
        "its own (--models) may hold a damaged file."
    )


def _as_data(done: Verification) -> dict[str, object]:
    return {
        **{name: value for name, value in asdict(done).items() if name != "lines"},
        "agrees": done.agrees,
        "lines": [_line_as_data(line) for line in done.lines],
    }


def _line_as_data(line: CheckedLine) -> dict[str, object]:
    return {
        "judgement": line.judgement.value,
        "difference": _difference_as_data(line.difference),
        "workers": [
            {
                "worker": worker.worker,
                "address": worker.address,
                "host": worker.host,
                "device": worker.device,
                "layer_start": worker.layers.start,
                "layer_end": worker.layers.end,
                "is_alike": worker.is_alike,
                "judgement": worker.judgement.value,
                "difference": _difference_as_data(worker.difference),
                "n_missampled": worker.n_missampled,
            }
            for worker in line.workers
        ],
    }


def _difference_as_data(difference: Difference | None) -> dict[str, object] | None:
    """JSON has no number that is infinite: null."""
    if difference is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in asdict(difference).items()}
