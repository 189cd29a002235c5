# SPDX-License-Identifier: MIT
"""What guessing brings: one stream over stages with 5 ms on every link, with a draft model ahead of the verdicts, with
one that waits for them, with prompt lookup, and without any.

    scripts/bench_drafting            a table; about half an hour
    scripts/bench_drafting --write    the same, and it goes into docs/benchmarks.md

The weights are random, so no small model would guess what the large one says. So the draft model is a small one of its
real cost, and what it offers is not what it computed but what the large one will say (from a run without guesses),
corrupted at a fixed rate: one guess in five. All else is as in use. Text that repeats comes from a grammar, text that
does not from a high temperature.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmark.model import Shape, write_model
from benchmark.processes import delayed
from benchmark.report import machine_line, write_between
from benchmark.worker import ON_CPU, started_worker
from coordinator import FlashAttention, LayerRange, Mesh, SamplingParams, draft_model
from coordinator.frame_log import FrameRecord
from coordinator.session import Session
from llama_source import ROOT

_SMALL = Shape(n_layer=2, n_embd=512, n_ff=1408, n_head=8, n_head_kv=4)
"""A fifteenth of the large one's bytes per token, as 0.5 B beside 8 B."""

_N_FEW_LAYERS = 6
"""Of a model whose stages leave two cores idle for most of a trip, as machines of their own would be: while frames run
ahead, three stages of the large one want more than two cores."""

_CORRUPTED = 0.2
_PROMPT = [1, *range(300, 316)]
_NO_END = ((2, float("-inf")),)
_GREEDY = SamplingParams(temperature=0, logit_bias=_NO_END)
_NOVEL = SamplingParams(temperature=5.0, logit_bias=_NO_END)
# Words of one token each that no other token is the beginning of, but for tokens of single bytes.
_CIRCLE = " ".join(f"w{digit}" for digit in "314159265358979323846264338327")
_NO_BYTES = tuple((token, float("-inf")) for token in range(3, 259))
_REPEATING = SamplingParams(temperature=0, logit_bias=_NO_END + _NO_BYTES, grammar=f'root ::= (" {_CIRCLE}")+')

OFF, WAITING, AHEAD, LOOKUP = "without guesses", "a draft model that waits", "a draft model ahead", "prompt lookup"


@dataclass
class Round:
    """One generation.

    Attributes:
        tokens_per_s: After the first token.
        guessed: Share of the tokens that had been guessed.
        waits: Of frames that begin with a known token: the seconds they waited at stages, as a share of their trips.
    """

    tokens: list[int]
    tokens_per_s: float
    guessed: float
    waits: list[float] = field(default_factory=list)


class CorruptedDrafter(draft_model.Drafter):
    """Computes as any drafter, and offers what is known to be right, but for a fixed share.

    Attributes:
        known: The text that will come.
    """

    known: Sequence[int] = ()
    chance = random.Random(0)

    def choose(self, position: int, logits: NDArray[np.float32]) -> int:
        guess = super().choose(position, logits)
        if position >= len(self.known):
            return guess
        right = self.known[position]
        return right if self.chance.random() >= _CORRUPTED else (right + 1) % self._n_vocab


class Guessing:
    """An open mesh whose way of guessing is changed between rounds."""

    def __init__(self, mesh: Mesh, n_decode: int) -> None:
        self._mesh = mesh
        self._n_decode = n_decode

    def round(self, how: str, sampling: SamplingParams) -> Round:
        """Measures once."""
        session: Session = self._mesh._mesh.lines[0].session
        self._mesh._thread.call(lambda: _set(session, how))
        n_before = self._mesh._thread.call(lambda: len(session.frames.records))
        generation = self._mesh.generate(_PROMPT, sampling=sampling, max_tokens=self._n_decode, cache_prompt=False)
        generation.wait()
        frames = self._mesh._thread.call(lambda: list(session.frames.records)[n_before:])
        tokens, usage = [token.id for token in generation.tokens], generation.usage
        return Round(tokens, usage.decode_tokens_per_s, usage.guessed_tokens / len(tokens), _waits(frames))


def _set(session: Session, how: str) -> None:
    speculation = session._scheduler.speculation
    limits = session._scheduler.limits
    speculation.limits = replace(limits, runs_ahead=how != WAITING, n_drafts=0 if how == OFF else limits.n_drafts)
    speculation.has_draft_model = how in (WAITING, AHEAD)


def _waits(frames: Sequence[FrameRecord]) -> list[float]:
    known = [frame for frame in frames if frame.is_decode and frame.n_guesses < frame.n_rows]
    return [sum(stage.waited_s for stage in frame.stages) / (frame.received_s - frame.sent_s) for frame in known]


@contextlib.contextmanager
def line(
    model: Path, draft: str | Path, *, n_layer: int, n_stages: int, delay_ms: float, n_decode: int
) -> Iterator[Guessing]:
    """A worker with one thread for each stage, each reached over a delayed link; cores are dealt out in turns."""
    cores = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        addresses = []
        for number in range(n_stages):
            core = cores[number % len(cores)]
            worker = stack.enter_context(started_worker(f"w{number}", *ON_CPU, core=core))
            addresses.append(f"127.0.0.1:{stack.enter_context(delayed((), '127.0.0.1', worker.port, delay_ms))}")
        bounds = [n_layer * number // n_stages for number in range(n_stages + 1)]
        stack.enter_context(mock.patch.object(draft_model, "Drafter", CorruptedDrafter))
        mesh = Mesh.open(
            model,
            workers=addresses,
            discover=False,
            parallel=1,
            context=n_decode + 64,
            draft=draft,
            draft_threads=1,
            flash_attention=FlashAttention.AUTO,
            layer_ranges=[LayerRange(first, end) for first, end in pairwise(bounds)],
        )
        stack.enter_context(mesh)
        yield Guessing(mesh, n_decode)


def with_draft_model(work: Path, *, n_layer: int, delay_ms: float, n_decode: int, n_rounds: int) -> list[str]:
    """Three stages, one stream: ahead of the verdicts, after them, and without guesses. Lines of a table."""
    model, small = model_files(work, n_layer)
    figures: dict[str, list[Round]] = {AHEAD: [], WAITING: [], OFF: []}
    with line(model, small, n_layer=n_layer, n_stages=3, delay_ms=delay_ms, n_decode=n_decode) as guessing:
        known = guessing.round(OFF, _GREEDY).tokens
        CorruptedDrafter.known = [*_PROMPT, *known]
        for number in range(n_rounds + 1):
            for how, rounds in figures.items():
                told = guessing.round(how, _GREEDY)
                same = next(
                    (i for i, pair in enumerate(zip(known, told.tokens, strict=True)) if len(set(pair)) > 1), None
                )
                said = "" if same is None else f", other text from token {same} on"
                print(
                    f"{how}, round {number}: {told.tokens_per_s:.1f} tok/s, {told.guessed:.0%} guessed{said}",
                    flush=True,
                )
                rounds += [told] if number else []
    return _rows(f"draft model, {n_layer} layers in 3 stages, {delay_ms:g} ms", figures, AHEAD)


def with_lookup(work: Path, *, delay_ms: float, n_decode: int, n_rounds: int) -> list[str]:
    """Two stages, one stream, text that repeats and text that does not: with and without prompt lookup."""
    model, _ = model_files(work, Shape().n_layer)
    lines = []
    with line(model, "lookup", n_layer=Shape().n_layer, n_stages=2, delay_ms=delay_ms, n_decode=n_decode) as guessing:
        # Novel text first, and another in each round: what was finished is looked at, too.
        for what, sampling in (("novel text", _NOVEL), ("text that repeats", _REPEATING)):
            figures: dict[str, list[Round]] = {LOOKUP: [], OFF: []}
            for number in range(n_rounds + 1):
                for how, rounds in figures.items():
                    told = guessing.round(how, replace(sampling, seed=2 * number + (how == OFF)))
                    print(f"{what}, {how}, round {number}: {told.tokens_per_s:.1f} tok/s, {told.guessed:.0%} guessed",
                          flush=True)  # fmt: skip
                    rounds += [told] if number else []
            lines += _rows(f"{what}, 2 stages, {delay_ms:g} ms", figures, LOOKUP)
    return lines


def model_files(work: Path, n_layer: int) -> tuple[Path, Path]:
    """A model of that many layers and the one that drafts for it; written the first time."""
    shape = Shape(n_layer=n_layer)
    name = "bench-350m" if shape == Shape() else f"bench-{n_layer}-layers"
    model, small = work / f"{name}-q8_0.gguf", work / "bench-draft-q8_0.gguf"
    for path, each in ((model, shape), (small, _SMALL)):
        if not path.exists():
            write_model(path, each)
    return model, small


def _rows(what: str, figures: dict[str, list[Round]], ours: str) -> list[str]:
    medians = {how: statistics.median(each.tokens_per_s for each in rounds) for how, rounds in figures.items()}
    lines = []
    for how, rounds in figures.items():
        speeds = [each.tokens_per_s for each in rounds]
        waits = [wait for each in rounds for wait in each.waits]
        waited = f"{statistics.mean(waits):.1%}" if waits else ""
        guessed = statistics.median(each.guessed for each in rounds)
        lines.append(
            f"| {what} | {how} | {medians[how]:.1f} ({min(speeds):.1f} to {max(speeds):.1f}) |"
            f" {medians[ours] / medians[how]:.2f} | {guessed:.0%} | {waited} |"
        )
    return lines


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench_drafting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="folder for the models")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-decode", type=int, default=256)
    parser.add_argument("--delay-ms", type=float, default=5.0, help="one way, on each link")
    parser.add_argument("--only", choices=["draft", "lookup"])
    options = parser.parse_args()
    lines = [
        machine_line(f"{options.rounds} rounds in turns; one guess of the draft model in five is made wrong"),
        "",
        "| what | guesses | tokens per second | ratio | tokens guessed | trips spent waiting at stages |",
        "|---|---|---|---|---|---|",
    ]
    amount = {"delay_ms": options.delay_ms, "n_decode": options.n_decode, "n_rounds": options.rounds}
    if options.only != "lookup":
        for n_layer in (Shape().n_layer, _N_FEW_LAYERS):
            lines += with_draft_model(options.work, n_layer=n_layer, **amount)
    if options.only != "draft":
        lines += with_lookup(options.work, **amount)
    print("\n".join(["", *lines]))
    if options.write:
        write_between(ROOT / "docs" / "benchmarks.md", "bench_drafting", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
