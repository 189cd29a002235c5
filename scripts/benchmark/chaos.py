# SPDX-License-Identifier: MIT
"""Chaos: workers of a line of three, with a spare, are killed, or their links broken, at a random token of four
streams, in every way, again and again; every stream is to end with the text of an undisturbed run. One mesh on the demo
model serves all that is done to processes of this machine, and then one all that is done to links of hosts in network
namespaces, which need root.

    scripts/chaos                      100 runs, a table; about twenty minutes
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
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.chaos_hosts import host_team, why_not
from benchmark.chaos_team import APART_S, NAMES, OF_NETWORK, WHAT, Kind, ProcessTeam, Team
from coordinator import CaravanError, Distribution, Generation, Mesh, SamplingParams
from coordinator.models import resolve_model
from tests.line.near_ties import check_same
from tests.line.reference import Reference

_PROMPTS = ("Once upon a time", "Maya the llama", "The river was", "One day")
_N_CTX = 512
_N_BATCH = 64
_N_TOKENS = 200
_LATEST_TOKEN = 120
"""Of the first stream, when somebody is killed: then all of them still run."""
_LONGEST_S = 60.0
_LONGEST_OF_LOSS_S = 180.0
"""A stream that takes longer is lost; over a link that loses packets, and does not break, all takes long."""


@dataclass
class Tally:
    """What came of the runs of one kind.

    Attributes:
        spots: Where near ties were: a prompt, whether it was greedy, the number of the token.
        pauses_s: Of each stream, the longest between two of its tokens.
        ends_s: Of each stream, from what befell a worker to its last token.
    """

    n_runs: int = 0
    n_streams: int = 0
    n_equal: int = 0
    n_near_ties: int = 0
    spots: set[tuple[tuple[int, ...], bool, int]] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)

    def row(self, what: str) -> str:
        """Of the table."""
        counts = (self.n_runs, self.n_streams, self.n_equal, self.n_near_ties, len(self.lost))
        pauses, ends = sorted(self.pauses_s), sorted(self.ends_s)
        median, p95 = statistics.median(pauses), pauses[min(len(pauses) - 1, int(0.95 * len(pauses)))]
        times = (median, p95, statistics.median(ends), ends[-1])
        return f"| {what} | {' | '.join(map(str, counts))} | {' | '.join(f'{time:.2f} s' for time in times)} |"


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
            time.sleep(APART_S)
            victims.append(self._chance.choice([name for name in NAMES if name not in victims]))
            self._team.hit(victims[1], kind)
        deadline_s = time.monotonic() + (_LONGEST_OF_LOSS_S if kind is Kind.LOSS else _LONGEST_S)
        for reader in readers:
            reader.join(max(0.0, deadline_s - time.monotonic()))
        print(f"    over after {time.monotonic() - hit_s:.1f} s", file=sys.stderr)
        tally.n_runs += 1
        for reader, expected in zip(readers, self._undisturbed[which], strict=True):
            self._count(reader, expected, hit_s, tally, is_greedy=which == 0)
        self._team.restore(victims)

    def _count(self, reader: Reader, expected: list[int], hit_s: float, tally: Tally, *, is_greedy: bool) -> None:
        generation = reader.generation
        tally.n_streams += 1
        tally.pauses_s.append(reader.pause_s(hit_s))
        tally.ends_s.append(max([0.0, *(time_s - hit_s for time_s in reader.times_s[-1:])]))
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
            tally.spots.add((generation.prompt_tokens, is_greedy, where))
        except AssertionError as error:
            tally.lost.append(str(error))

    def _begin(self, sampling: SamplingParams) -> list[Generation]:
        return [
            self._mesh.generate(prompt, sampling=sampling, max_tokens=_N_TOKENS, cache_prompt=False)
            for prompt in _PROMPTS
        ]

    def _texts(self, sampling: SamplingParams) -> list[list[int]]:
        return [[token.id for token in generation.wait().tokens] for generation in self._begin(sampling)]

    def close(self) -> None:
        """Frees the reference."""
        self._reference.close()


@contextlib.contextmanager
def _opened(team: Team, seed: int) -> Iterator[Chaos]:
    with Mesh.open(
        "demo",
        workers=team.addresses,
        discover=False,
        insecure_workers=True,
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


def _run(team: Team, runs: Sequence[tuple[Kind, int]], seed: int, tallies: Mapping[Kind, Tally]) -> Sequence[str]:
    """All that are of one team; what is to be said of them."""
    with _opened(team, seed) as chaos:
        for done, (kind, number) in enumerate(runs, 1):
            print(f"run {done} of {len(runs)}: {WHAT[kind]}", file=sys.stderr)
            chaos.run(kind, number, tallies[kind])
    return team.notes


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=100, help="of all kinds together (default 100)")
    parser.add_argument("--kinds", nargs="+", choices=[*Kind], type=Kind, metavar="KIND",
                        help=f"which (default all that are possible here): {', '.join(Kind)}")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of who is hit, and when (default 0)")
    options = parser.parse_args()
    obstacle = why_not() if options.kinds is None or {*options.kinds}.intersection(OF_NETWORK) else None
    if options.kinds is None:
        options.kinds = [kind for kind in Kind if obstacle is None or kind not in OF_NETWORK]
        if obstacle is not None:
            print(f"left out: {' and '.join(OF_NETWORK)}; {obstacle}", file=sys.stderr)
    elif obstacle is not None:
        parser.error(obstacle)
    return options


def _report(tallies: Mapping[Kind, Tally], notes: Sequence[str]) -> None:
    print(
        "| what happens | runs | streams | equal | near ties | lost | pause, median | p95 | to the end, median | most |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for kind, tally in tallies.items():
        if tally.n_runs:
            print(tally.row(WHAT[kind]))
    n_near_ties = sum(tally.n_near_ties for tally in tallies.values())
    n_spots = len({spot for tally in tallies.values() for spot in tally.spots})
    print(f"the {n_near_ties} near ties are at {n_spots} places of {2 * len(_PROMPTS)} texts")
    for note in notes:
        print(note)
    for kind, tally in tallies.items():
        for lost in tally.lost:
            print(f"lost when {WHAT[kind]}: {lost}")


def main() -> int:
    """Runs, and prints the table; 1 if a stream was lost."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = _asked()
    tallies = {kind: Tally() for kind in options.kinds}
    kinds = [*tallies]
    runs = [(kinds[number % len(kinds)], number // len(kinds)) for number in range(options.runs)]
    of_network = [(kind, number) for kind, number in runs if kind in OF_NETWORK]
    of_processes = [(kind, number) for kind, number in runs if kind not in OF_NETWORK]
    notes: list[str] = []
    if of_processes:
        with contextlib.closing(ProcessTeam()) as processes:
            notes += _run(processes, of_processes, options.seed, tallies)
    if of_network:
        with host_team() as on_hosts:
            notes += _run(on_hosts, of_network, options.seed, tallies)
    _report(tallies, notes)
    return int(any(tally.lost for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
