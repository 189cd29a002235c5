# SPDX-License-Identifier: MIT
"""A soak: many clients of `caravan serve` over three workers, which read, read slowly, leave and give up, while workers
are ended and killed now and then and started again. No request may fail but for what its client did, each answer is to
be its own, and no process may grow.

    scripts/soak                       an hour; a table
    scripts/soak --minutes 10

Told of every process: how its memory (RSS) went from when it was warm, and how fast while its layers stayed the same;
its open files then and at the end; and zombies.
A first difference at a near tie (tests/line/near_ties.py) is counted as such.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from subprocess import Popen

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmark.processes import free_port
from coordinator.frame_log import KEPT_S
from coordinator.models import resolve_model
from native import Vocabulary
from tests.coordinator.caravan_command import ALONE, started
from tests.line.crowd import Crowd, Difference, beside
from tests.line.near_ties import NEAR_OVER_BATCHES, check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

_NAMES = ("attic", "cellar", "desk")
_N_CTX = 1024
_N_CLIENTS = 40
_N_SLOTS = 4
_N_TOKENS = 200
"""Of the longest answers."""

_WARM_S = KEPT_S + 20
"""The coordinator remembers the frames of some minutes: until then its memory grows by them."""
_WORKER_WARM_S = 60.0
_SETTLED_S = 20.0
"""After a change of the line."""
_BURST_S = 60.0
_REST_S = 3.0
"""Between bursts nothing runs: then who came back is taken in."""
_LEAST_S = 60.0
"""To say anything, when it is warm."""
_SAMPLE_EVERY_S = 2.0
_MIB = 1 << 20


@dataclass(slots=True)
class Life:
    """What a process held over time, from when it was started or the soak was.

    Attributes:
        warm_s: After which its memory is to stay as it is.
        changed_s: When the line was changed, so that it may have other layers.
        is_over: It was ended, as it was to be.
    """

    name: str
    process: psutil.Process
    warm_s: float
    at_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)
    n_files: list[int] = field(default_factory=list)
    changed_s: list[float] = field(default_factory=list)
    is_over: bool = False

    def sample(self) -> None:
        """Takes note of what it holds now."""
        with contextlib.suppress(psutil.Error):
            rss, n_files = self.process.memory_info().rss, self.process.num_fds()
            self.at_s.append(time.monotonic())
            self.rss.append(rss)
            self.n_files.append(n_files)

    def row(self) -> str | None:
        """Of the table; None: it did not live for long enough to say."""
        if not self.at_s or self.at_s[-1] - self.at_s[0] < self.warm_s + _LEAST_S:
            return None
        warm = next(number for number, at_s in enumerate(self.at_s) if at_s >= self.at_s[0] + self.warm_s)
        minutes = (np.array(self.at_s[warm:]) - self.at_s[0]) / 60
        rss = np.array(self.rss[warm:]) / _MIB
        slope = self._slope(minutes, rss)
        files = self.n_files[warm:]
        tenth = max(1, len(files) // 10)
        memory = f"{np.median(rss[:tenth]):.1f} MiB | {np.median(rss[-tenth:]):.1f} MiB | {slope}"
        open_files = f"{np.median(files[:tenth]):.0f} | {np.median(files[-tenth:]):.0f} | {max(files)}"
        return f"| {self.name} | {minutes[-1] - minutes[0]:.0f} min | {memory} | {open_files} |"

    def _slope(self, minutes: NDArray[np.float64], rss: NDArray[np.float64]) -> str:
        """MiB a minute while its layers stayed: one slope over all times between two changes, but for their beginnings;
        empty where these are too short."""
        bounds = [0.0, *((at_s - self.at_s[0]) / 60 for at_s in self.changed_s), np.inf]
        products, squares = 0.0, 0.0
        for start, end in itertools.pairwise(bounds):
            inside = (minutes >= start + _SETTLED_S / 60) & (minutes < end)
            if inside.sum() > 1:
                apart = minutes[inside] - minutes[inside].mean()
                products += float(apart @ (rss[inside] - rss[inside].mean()))
                squares += float(apart @ apart)
        return f"{products / squares:+.3f}" if squares else ""


class Watch:
    """Samples all processes in a thread."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.n_zombies = 0
        self._end = threading.Event()

    def note_change(self) -> None:
        """The line is another one from now on."""
        for life in self.lives:
            life.changed_s.append(time.monotonic())

    def begin(self, name: str, pid: int, warm_s: float) -> Life:
        """From now on this process, too."""
        life = Life(name, psutil.Process(pid), warm_s)
        self.lives.append(life)
        return life

    def running(self) -> contextlib.AbstractContextManager[None]:
        """Until this is left."""
        return beside(self._run, self._end)

    def _run(self) -> None:
        while not self._end.wait(_SAMPLE_EVERY_S):
            for life in [life for life in self.lives if not life.is_over]:
                life.sample()
            self.n_zombies = max(self.n_zombies, self.zombies())

    def zombies(self) -> int:
        """Of the processes watched and what they started, now."""
        n_zombies = 0
        for life in [life for life in self.lives if not life.is_over]:
            with contextlib.suppress(psutil.Error):
                family = [life.process, *life.process.children(recursive=True)]
                n_zombies += sum(each.status() == psutil.STATUS_ZOMBIE for each in family)
        return n_zombies


class Team:
    """Workers, of which all but the first are restarted now and then, each on the port that it had."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in _NAMES}
        self._lives: dict[str, Life] = {}
        self._workers = {name: self._start(name) for name in _NAMES}
        self.n_restarts: Counter[str] = Counter()

    def restart_now_and_then(self, every_s: float, end: threading.Event) -> None:
        """Ended as by systemd, and killed as by a power cut, in turns."""
        turns = itertools.cycle(itertools.product((signal.SIGTERM, signal.SIGKILL), _NAMES[1:]))
        while not end.wait(every_s):
            how, name = next(turns)
            self._lives[name].is_over = True
            self._workers[name].send_signal(how)
            self._workers[name].stop()
            self._workers[name] = self._start(name)
            self.n_restarts[how.name] += 1

    def close(self) -> None:
        """Ends all."""
        for worker in self._workers.values():
            worker.stop()

    def _start(self, name: str) -> WorkerProcess:
        worker = WorkerProcess(name, "--listen", self.addresses[name])
        self._lives[name] = self._watch.begin(name, worker.pid, _WORKER_WARM_S)
        return worker


def _listen(process: Popen[str], said: list[str], ready: threading.Event, watch: Watch) -> None:
    """To what the coordinator says, so that it may go on saying it."""
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line.rstrip())
        if " resumed after " in line:
            watch.note_change()
        if "ready on http://" in line:
            ready.set()
    ready.set()


async def _ask(crowd: Crowd, seconds: float) -> None:
    """In bursts."""
    ends_s = time.monotonic() + seconds
    while (left_s := ends_s - time.monotonic()) > 0:
        await crowd.ask(_N_CLIENTS, min(_BURST_S, left_s))
        await asyncio.sleep(_REST_S)


def _wrong_in(difference: Difference, reference: Reference) -> str | None:
    """What is, if it is not a near tie."""
    task = difference.task
    expected = task.expected[: difference.n_expected]
    try:
        check_same(reference, task.prompt, expected, difference.tokens, near=NEAR_OVER_BATCHES)
    except AssertionError as error:
        return str(error)
    return None


def _told(crowd: Crowd, reference: Reference, watch: Watch, said: Sequence[str]) -> bool:
    """Prints what came of it; whether all is well."""
    wrong = [*crowd.problems, *filter(None, (_wrong_in(difference, reference) for difference in crowd.differences))]
    print(f"{crowd.n_begun} requests, {crowd.n_tokens} tokens: {dict(crowd.outcomes)}; {len(wrong)} went wrong")
    print(f"{len(crowd.differences)} differ first at a near tie, or are among those that went wrong")
    n_lost, n_joined = (sum(word in line for line in said) for word in (" resumed after ", " joined: "))
    print(f"the line broke {n_lost - n_joined} times and took workers in {n_joined} times; zombies: {watch.n_zombies}")
    print("| process | watched, warm | memory then | at the end | MiB a minute | files then | at the end | most |")
    print("|---|---|---|---|---|---|---|---|")
    for row in filter(None, (life.row() for life in watch.lives)):
        print(row)
    for sentence in wrong[:20]:
        print(f"wrong: {sentence}")
    return not wrong and not watch.n_zombies


def _soak(minutes: float, restart_every_s: float, seed: int) -> bool:
    path = resolve_model("demo").path
    watch, end = Watch(), threading.Event()
    said: list[str] = []
    ready = threading.Event()
    with contextlib.ExitStack() as stack:
        reference = Reference(path, n_ctx=_N_CTX, n_batch=512)
        stack.callback(reference.close)
        vocabulary = stack.enter_context(Vocabulary.load(path))
        team = Team(watch)
        stack.callback(team.close)
        arguments = [argument for address in team.addresses.values() for argument in ("--worker", address)]
        arguments += ["--distribution", "on", "--context", str(_N_CTX), "--parallel", str(_N_SLOTS), *ALONE]
        process = stack.enter_context(started("serve", "demo", "--listen", "127.0.0.1:0", *arguments))
        threading.Thread(target=_listen, args=(process, said, ready, watch), daemon=True).start()
        ready.wait()
        (url,) = [word.removesuffix("/v1") for line in said for word in line.split() if word.endswith("/v1")]
        watch.begin("coordinator", process.pid, _WARM_S)
        crowd = Crowd.of_readers(url, vocabulary, reference, _N_TOKENS, random.Random(seed), longest_stop_s=5)
        with watch.running(), beside(lambda: team.restart_now_and_then(restart_every_s, end), end):
            asyncio.run(_ask(crowd, minutes * 60))
        print(f"{minutes:g} minutes; workers restarted: {dict(team.n_restarts)}")
        return _told(crowd, reference, watch, said)


def main() -> int:
    """Runs, and prints what came of it; 1 if anything went wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60); 5 at least tell of memory")
    parser.add_argument("--restart-every", type=float, default=180.0, metavar="SECONDS",
                        help="a worker is ended or killed, and started again, so often (default 180)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of what clients ask (default 0)")
    options = parser.parse_args()
    return int(not _soak(options.minutes, options.restart_every, options.seed))


if __name__ == "__main__":
    sys.exit(main())
