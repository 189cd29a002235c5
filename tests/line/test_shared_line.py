# SPDX-License-Identifier: MIT
"""Requests that share a line's slots: cancelled in any phase, out of time, or read too slowly; and the others."""

import asyncio
import time
from collections.abc import Callable

import pytest

from coordinator import (
    AsyncMesh,
    DeadlineError,
    Distribution,
    FinishReason,
    InvalidRequestError,
    Mesh,
    SamplingParams,
    SlowReaderError,
)
from tests.line.conftest import N_BATCH, N_CTX, open_mesh
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

GREEDY = SamplingParams(temperature=0, logprobs=True, n_top_logprobs=10)
ENDLESS = SamplingParams(temperature=0, grammar='root ::= "ab" root')
LONG_PROMPT = "Once upon a time there was a llama named Maya. She walked to the river and sang a little song. " * 18


async def _settle() -> None:
    """A cancel comes by a callback of the loop, and what follows from it in the same turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decode"])
async def test_a_cancel_frees_the_slot_at_once_and_the_next_request_in_it_is_right(
    workers: list[WorkerProcess], reference: Reference, phase: str
) -> None:
    addresses = [worker.address for worker in workers[:2]]
    async with await AsyncMesh.open(
        "demo", workers=addresses, discover=False, context=N_CTX, batch=N_BATCH, parallel=1,
        distribution=Distribution.ON,
    ) as mesh:  # fmt: skip
        first = mesh.generate("One day", sampling=ENDLESS) if phase == "waiting" else None
        prompt = LONG_PROMPT if phase == "prefill" else "Maya the llama"
        cancelled = mesh.generate(prompt, sampling=ENDLESS, max_tokens=50)
        following = mesh.generate("Once upon a time", sampling=GREEDY, max_tokens=20)
        if phase == "prefill":
            scheduler = mesh._mesh.lines[0].session._scheduler
            while not scheduler.n_in_flight:  # noqa: ASYNC110 -- frames tell nobody
                await asyncio.sleep(0)
        if phase == "decode":
            await anext(aiter(cancelled))
        assert (len(cancelled.tokens) > 0) == (phase == "decode")
        cancelled.cancel()
        await _settle()
        assert (mesh.n_running, mesh.n_waiting) == (1, 1 if first else 0)
        if first:
            first.cancel()
        await following
        assert cancelled.finish_reason is FinishReason.CANCELLED
        assert mesh.n_running == 0
    expected = reference.greedy_tokens(following.prompt_tokens, 20)
    check_same(reference, following.prompt_tokens, expected, following.tokens)


def test_a_request_ends_when_its_time_is_over_waiting_or_running(workers: list[WorkerProcess]) -> None:
    with open_mesh(workers[:2], parallel=1, request_timeout=3) as mesh:
        # Nobody reads it, so that it is not done too soon.
        running = mesh.generate("Once", sampling=ENDLESS, timeout=3600, max_unread=4)
        waiting = mesh.generate("Once", sampling=ENDLESS, timeout=0.2)
        with pytest.raises(DeadlineError, match=r"0\.2 s \(it had no token yet\)"):
            waiting.wait()
        assert mesh.n_running == 1
        _wait_until(lambda: mesh.n_running == 0)
        with pytest.raises(DeadlineError) as late:
            running.wait()
        assert (late.value.timeout_s, late.value.n_tokens) == (3, len(running.tokens))
        assert mesh.generate("Once", max_tokens=1).wait().finish_reason is FinishReason.LENGTH
        with pytest.raises(InvalidRequestError, match="timeout must be more than 0 s"):
            mesh.generate("Once", timeout=0)


def test_a_request_that_is_not_read_is_paused_while_others_go_on_and_then_is_right(
    mesh: Mesh, reference: Reference
) -> None:
    slow = mesh.generate("Maya the llama", sampling=GREEDY, max_tokens=80, max_unread=16)
    for _ in range(2):
        mesh.generate("Once", sampling=ENDLESS, max_tokens=80).wait()
    # As many as may lie unread, and those that were in the line.
    assert 16 <= len(slow.tokens) <= 20
    first = [next(slow) for _ in range(12)]
    _wait_until(lambda: len(slow.tokens) >= 28)
    assert [*first, *slow] == list(slow.tokens)
    check_same(reference, slow.prompt_tokens, reference.greedy_tokens(slow.prompt_tokens, 80), slow.tokens)


def test_a_request_whose_reader_is_stuck_keeps_its_slot_until_another_waits_for_it(
    workers: list[WorkerProcess],
) -> None:
    with open_mesh(workers[:2], parallel=1) as mesh:
        mesh._mesh.lines[0].session._requests.patience_s = 0.3
        for is_waited_for_before in (True, False):
            stuck = mesh.generate("Once", sampling=ENDLESS, max_unread=4)
            if not is_waited_for_before:
                time.sleep(0.8)
                assert mesh.n_running == 1
            following = mesh.generate("Once upon a time", sampling=GREEDY, max_tokens=3).wait()
            assert following.usage.completion_tokens == 3
            with pytest.raises(SlowReaderError, match="while others waited"):
                stuck.wait()
            assert mesh.n_running == 0


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)
