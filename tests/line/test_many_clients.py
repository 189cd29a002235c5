# SPDX-License-Identifier: MIT
"""Many clients at once over few slots, through HTTP: none is lost, none gets another's answer, and nothing is left."""

import asyncio
import contextlib
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from subprocess import Popen

import httpx
import psutil
import pytest

from coordinator.frame_log import KEPT_S
from native import Vocabulary
from tests.coordinator.caravan_command import ALONE, served_url, started
from tests.line.crowd import Conduct, Crowd, beside
from tests.line.near_ties import COUNT, check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

_SOAK_S = float(os.environ.get("CARAVAN_TEST_SOAK_S", "300"))
_N_CTX = 1024
_N_TOKENS = 600
"""Of the longest answers: more than a stream's buffers and its 256 unread tokens."""


class _Watch:
    """What processes hold (RSS, in bytes) over time, and the most requests that were paused, sampled in a thread."""

    def __init__(self, url: str, processes: Sequence[psutil.Process]) -> None:
        self.n_paused = 0
        self._url = url
        self._processes = processes
        self._samples: list[tuple[float, list[int]]] = []
        self._end = threading.Event()

    def running(self) -> contextlib.AbstractContextManager[None]:
        return beside(self._sample, self._end)

    def medians(self, start_s: float, end_s: float) -> list[float]:
        """Of each process, between two times of the monotonic clock."""
        rows = [rss for at_s, rss in self._samples if start_s <= at_s < end_s]
        return [statistics.median(column) for column in zip(*rows, strict=True)]

    def _sample(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._end.wait(1.0):
                self.n_paused = max(self.n_paused, client.get("/health").json()["n_paused"])
                self._samples.append((time.monotonic(), [each.memory_info().rss for each in self._processes]))


@pytest.fixture(scope="module")
def vocabulary(demo_path: Path) -> Iterator[Vocabulary]:
    with Vocabulary.load(demo_path) as vocabulary:
        yield vocabulary


@pytest.fixture(scope="module")
def long_reference(demo_path: Path) -> Iterator[Reference]:
    reference = Reference(demo_path, n_ctx=_N_CTX, n_batch=512)
    yield reference
    reference.close()


def _served(workers: Sequence[WorkerProcess], *arguments: str) -> contextlib.AbstractContextManager[Popen[str]]:
    line = [argument for worker in workers for argument in ("--worker", worker.address)]
    line += ["--distribution", "on", "--context", str(_N_CTX), *ALONE]
    return started("serve", "demo", "--listen", "127.0.0.1:0", *line, *arguments)


def _check(crowd: Crowd, reference: Reference) -> None:
    """Each request ended as it should, and each answer is its own."""
    assert not crowd.problems, f"{len(crowd.problems)} problems, such as {crowd.problems[:5]}"
    assert crowd.outcomes.total() == crowd.n_begun
    assert set(crowd.conducts) == set(Conduct)
    COUNT.compared += crowd.outcomes["whole"] - len(crowd.differences)
    for each in crowd.differences:
        check_same(reference, each.task.prompt, each.task.expected[: each.n_expected], each.tokens)


def _check_all_free(url: str, n_slots: int, crowd: Crowd) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        deadline = time.monotonic() + 60
        while (health := client.get("/health").json())["n_running"] or health["n_waiting"]:
            assert time.monotonic() < deadline, f"something is left: {health}"
            time.sleep(0.05)
        # And each can be used.
        prompts = [crowd.tasks[number % len(crowd.tasks)].prompt for number in range(n_slots)]
        body = {"prompt": prompts, "max_tokens": 20, "temperature": 0, "logit_bias": crowd.logit_bias}
        answer = client.post("/v1/completions", json=body)
        assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["length"] * n_slots


def test_forty_clients_over_four_slots_each_get_their_own(
    workers: list[WorkerProcess], vocabulary: Vocabulary, long_reference: Reference
) -> None:
    with _served(workers[:2], "--parallel", "4") as process:
        url = served_url(process)
        crowd = Crowd.of_readers(url, vocabulary, long_reference, 100, Random(time.time()), longest_stop_s=2)
        asyncio.run(crowd.ask(40, duration_s=0))
        _check(crowd, long_reference)
        _check_all_free(url, 4, crowd)


@pytest.mark.slow
@pytest.mark.timeout(_SOAK_S + 400)
def test_two_hundred_clients_over_eight_slots_each_get_their_own_and_memory_stays_flat(
    workers: list[WorkerProcess], vocabulary: Vocabulary, long_reference: Reference
) -> None:
    with _served(workers[:2], "--parallel", "8", "--queue", "256") as process:
        url = served_url(process)
        crowd = Crowd.of_readers(url, vocabulary, long_reference, _N_TOKENS, Random(time.time()), longest_stop_s=15)
        watch = _Watch(url, [psutil.Process(pid) for pid in (process.pid, *(worker.pid for worker in workers[:2]))])
        begun_s = time.monotonic()
        with watch.running():
            asyncio.run(crowd.ask(200, _SOAK_S))
            ended_s = time.monotonic()
        _check(crowd, long_reference)
        _check_all_free(url, 8, crowd)
    # The coordinator remembers the frames of some minutes (some 20 MiB): until then its memory grows by them, and later
    # goes up and down by a few per cent with how many there are. What requests left behind would come on top.
    span_s, warm_s = 0.1 * _SOAK_S, min(KEPT_S + 10, _SOAK_S / 2)
    before = watch.medians(begun_s + warm_s, begun_s + warm_s + span_s)
    after = watch.medians(begun_s + _SOAK_S - span_s, begun_s + _SOAK_S)
    told = ", ".join(f"{a / 2**20:.1f} -> {b / 2**20:.1f} MiB" for a, b in zip(before, after, strict=True))
    print(f"{crowd.outcomes} of {crowd.n_begun}, {crowd.n_tokens} tokens in {ended_s - begun_s:.0f} s; {told}")
    print(f"up to {watch.n_paused} paused at a time")
    print(f"{len(crowd.differences)} differed, all at a near tie; {crowd.conducts}")
    assert watch.n_paused > 0
    for a, b in zip(before, after, strict=True):
        assert b < 1.06 * a + 2**20, f"memory grew: {told}"
