# SPDX-License-Identifier: MIT
"""Chaos: workers of a line of three, with a spare, are killed at a random token of four streams, in every way, again
and again; every stream is to end with the text of an undisturbed run. One mesh serves all of it, on the demo model.

    scripts/chaos                      100 runs, a table; about ten minutes
    scripts/chaos --runs 20 --kinds kill freeze

A first difference at a near tie (tests/line/near_ties.py) is counted as such: the KV cache was computed in other
batches than before.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from benchmark.processes import free_port
from coordinator import CaravanError, Distribution, Generation, Mesh, SamplingParams
from coordinator.models import resolve_model
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

_NAMES = ("attic", "cellar", "desk", "shed")
_PROMPTS = ("Once upon a time", "Maya the llama", "The river was", "One day")
_N_CTX = 512
_N_BATCH = 64
_N_TOKENS = 200
_LATEST_TOKEN = 120
"""Of the first stream, when somebody is killed: then all of them still run."""
_APART_S = 0.1
"""Between the two of a double failure."""
_LONGEST_S = 60.0
"""A stream that takes longer is lost."""


class Kind(str, Enum):
    """A way to fail."""

    NOTHING = "nothing"
    KILL = "kill"
    TERMINATE = "terminate"
    ABORT = "abort"
    FREEZE = "freeze"
    TWO = "two"

    def __str__(self) -> str:
        return self.value


_SIGNALS = {
    Kind.KILL: signal.SIGKILL,
    Kind.TERMINATE: signal.SIGTERM,
    Kind.ABORT: signal.SIGABRT,
    Kind.FREEZE: signal.SIGSTOP,
    Kind.TWO: signal.SIGKILL,
}

_WHAT = {
    Kind.NOTHING: "nothing, for comparison",
    Kind.KILL: "one is killed (-9)",
    Kind.TERMINATE: "one is told to end (-15)",
    Kind.ABORT: "one aborts, as in llama.cpp (-6)",
    Kind.FREEZE: "one is frozen (SIGSTOP)",
    Kind.TWO: f"two are killed, {_APART_S * 1000:.0f} ms apart",
}


@dataclass
class Tally:
    """What came of the runs of one kind; `pauses_s`: of each stream, the longest between two of its tokens."""

    n_runs: int = 0
    n_streams: int = 0
    n_equal: int = 0
    n_near_ties: int = 0
    lost: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)

    def row(self, what: str) -> str:
        """Of the table."""
        pauses = sorted(self.pauses_s)
        median, p95 = statistics.median(pauses), pauses[min(len(pauses) - 1, int(0.95 * len(pauses)))]
        counts = (self.n_runs, self.n_streams, self.n_equal, self.n_near_ties, len(self.lost))
        return f"| {what} | {' | '.join(map(str, counts))} | {median:.2f} s | {p95:.2f} s |"


class Team:
    """The workers, each on a port that its successors get too."""

    def __init__(self) -> None:
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in _NAMES]
        self._workers = [self._start(number) for number in range(len(_NAMES))]

    def hit(self, name: str, kind: Kind) -> None:
        """What the kind says befalls the worker of that name."""
        self._workers[_NAMES.index(name)].send_signal(_SIGNALS[kind])

    def replace(self, names: Sequence[str]) -> None:
        """Starts others in place of those, whatever befell them."""
        for number in map(_NAMES.index, names):
            self._end(self._workers[number])
            self._workers[number] = self._start(number)

    def close(self) -> None:
        """Ends all."""
        for worker in self._workers:
            self._end(worker)

    def _start(self, number: int) -> WorkerProcess:
        return WorkerProcess(_NAMES[number], "--listen", self.addresses[number])

    @staticmethod
    def _end(worker: WorkerProcess) -> None:
        worker.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.stop()


class Reader(threading.Thread):
    """Takes a stream's tokens as they come."""

    def __init__(self, generation: Generation) -> None:
        super().__init__(daemon=True)
        self.generation = generation
        self.times_s: list[float] = []
        self.error: CaravanError | None = None
        self.start()

    def run(self) -> None:
        """On its thread."""
        try:
            for _ in self.generation:
                self.times_s.append(time.monotonic())
        except CaravanError as error:
            self.error = error

    def pause_s(self, since_s: float) -> float:
        """The longest that ended after that time."""
        pairs = zip(self.times_s, self.times_s[1:], strict=False)
        return max((after - before for before, after in pairs if after > since_s), default=0.0)


class Chaos:
    """A mesh, what its streams say undisturbed, and what came of disturbing it."""

    def __init__(self, mesh: Mesh, team: Team, chance: random.Random) -> None:
        self._mesh = mesh
        self._team = team
        self._chance = chance
        self._reference = Reference(resolve_model("demo").path, n_ctx=_N_CTX, n_batch=_N_BATCH)
        vocabulary = mesh.vocabulary
        ends = [token for token in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(token)]
        self._ends = ends
        bias = tuple((token, float("-inf")) for token in ends)
        self._samplings = (
            SamplingParams(temperature=0, logit_bias=bias, logprobs=True, n_top_logprobs=10),
            SamplingParams(temperature=0.8, seed=5, logit_bias=bias, logprobs=True, n_top_logprobs=10),
        )
        self._spots: Counter[tuple[tuple[int, ...], bool, int]] = Counter()
        self._undisturbed = [self._texts(sampling) for sampling in self._samplings]

    def run(self, kind: Kind, number: int, tally: Tally) -> None:
        """Once: every second time with tokens that are drawn."""
        which = number % len(self._samplings)
        readers = [Reader(each) for each in self._begin(self._samplings[which])]
        latest = self._chance.randint(1, _LATEST_TOKEN)
        while len(readers[0].times_s) < latest and readers[0].is_alive():
            time.sleep(0.001)
        line = [stage.worker for stage in self._mesh.plan.stages]
        victims = self._chance.sample(line, 1) if kind is not Kind.NOTHING else []
        hit_s = time.monotonic()
        for name in victims:
            self._team.hit(name, kind)
        if kind is Kind.TWO:
            time.sleep(_APART_S)
            victims.append(self._chance.choice([name for name in _NAMES if name not in victims]))
            self._team.hit(victims[1], kind)
        deadline_s = time.monotonic() + _LONGEST_S
        for reader in readers:
            reader.join(max(0.0, deadline_s - time.monotonic()))
        tally.n_runs += 1
        for reader, expected in zip(readers, self._undisturbed[which], strict=True):
            self._count(reader, expected, hit_s, tally, is_greedy=which == 0)
        self._team.replace(victims)

    def _count(self, reader: Reader, expected: list[int], hit_s: float, tally: Tally, *, is_greedy: bool) -> None:
        generation = reader.generation
        tally.n_streams += 1
        tally.pauses_s.append(reader.pause_s(hit_s))
        if reader.is_alive() or reader.error is not None:
            generation.cancel()
            tally.lost.append(f"{len(reader.times_s)} tokens, then {reader.error or 'nothing more'}")
            return
        if [token.id for token in generation.tokens] == expected:
            tally.n_equal += 1
            return
        try:
            check_same(
                self._reference,
                generation.prompt_tokens,
                expected,
                generation.tokens,
                greedy=is_greedy,
                forbidden=self._ends,
            )
            tally.n_near_ties += 1
            ids = [token.id for token in generation.tokens]
            where = next(number for number, token in enumerate(ids) if token != expected[number])
            self._spots[(generation.prompt_tokens, is_greedy, where)] += 1
        except AssertionError as error:
            tally.lost.append(str(error))

    def _begin(self, sampling: SamplingParams) -> list[Generation]:
        return [
            self._mesh.generate(prompt, sampling=sampling, max_tokens=_N_TOKENS, cache_prompt=False)
            for prompt in _PROMPTS
        ]

    def _texts(self, sampling: SamplingParams) -> list[list[int]]:
        return [[token.id for token in generation.wait().tokens] for generation in self._begin(sampling)]

    @property
    def n_spots(self) -> int:
        """Places in the texts where near ties were."""
        return len(self._spots)

    def close(self) -> None:
        """Frees the reference."""
        self._reference.close()


@contextlib.contextmanager
def _opened(seed: int) -> Iterator[Chaos]:
    team = Team()
    try:
        with Mesh.open(
            "demo",
            workers=team.addresses,
            discover=False,
            context=_N_CTX,
            batch=_N_BATCH,
            distribution=Distribution.ON,
            max_stages=3,
            on_event=lambda event: print(f"    {event.message[:200]}", file=sys.stderr),
        ) as mesh:
            chaos = Chaos(mesh, team, random.Random(seed))
            try:
                yield chaos
            finally:
                chaos.close()
    finally:
        team.close()


def main() -> int:
    """Runs, and prints the table; 1 if a stream was lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = [kind.value for kind in Kind]
    parser.add_argument("--runs", type=int, default=100, help="of all kinds together (default 100)")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, metavar="KIND",
                        help=f"which (default all): {', '.join(kinds)}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of who is hit, and when (default 0)")
    options = parser.parse_args()
    tallies = {Kind(name): Tally() for name in options.kinds}
    with _opened(options.seed) as chaos:
        for number in range(options.runs):
            kind = list(tallies)[number % len(tallies)]
            print(f"run {number + 1} of {options.runs}: {_WHAT[kind]}", file=sys.stderr)
            chaos.run(kind, number // len(tallies), tallies[kind])
        n_spots = chaos.n_spots
    print("| what happens | runs | streams | equal | near ties | lost | pause, median | p95 |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, tally in tallies.items():
        if tally.n_runs:
            print(tally.row(_WHAT[kind]))
    n_near_ties = sum(tally.n_near_ties for tally in tallies.values())
    print(f"the {n_near_ties} near ties are at {n_spots} places of {2 * len(_PROMPTS)} texts")
    for lost in (lost for tally in tallies.values() for lost in tally.lost):
        print(f"lost: {lost}")
    return int(any(tally.lost for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
