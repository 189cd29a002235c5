# SPDX-License-Identifier: MIT
"""One request through a line: how it ends, what it reports, and that cancelling it frees its slot."""

import asyncio
import gc
import time

import pytest

from coordinator import (
    AsyncMesh,
    FinishReason,
    InvalidRequestError,
    Mesh,
    OverloadedError,
    PromptTooLongError,
    SamplingParams,
)
from tests.line.conftest import N_CTX, open_mesh
from tests.line.endless_streams import endless
from tests.line.processes import WorkerProcess

GREEDY = SamplingParams(temperature=0)
PROMPT = "Once upon a time"


def _wait_until_idle(mesh: Mesh) -> None:
    deadline = time.monotonic() + 60
    while mesh.n_running or mesh.n_waiting:
        assert time.monotonic() < deadline, "a slot was not freed"
        time.sleep(0.01)


def test_tokens_come_one_by_one_and_their_texts_make_the_text(mesh: Mesh) -> None:
    generation = mesh.generate(PROMPT, sampling=GREEDY, max_tokens=12)
    tokens = list(generation)
    assert len(tokens) == 12
    assert "".join(token.text for token in tokens) == generation.text
    assert b"".join(token.piece for token in tokens).decode() == generation.text
    assert generation.finish_reason == "length"
    usage = generation.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(generation.prompt_tokens), 12)
    assert min(usage.queued_s, usage.prefill_s, usage.decode_s) > 0


def test_a_stop_string_ends_it_and_is_not_shown(mesh: Mesh) -> None:
    whole = mesh.generate(PROMPT, sampling=GREEDY, max_tokens=60).wait().text
    stop = whole[20:27]
    generation = mesh.generate(PROMPT, sampling=GREEDY, max_tokens=60, stop=[stop, "never said"]).wait()
    assert generation.text == whole[: whole.index(stop)]
    assert generation.finish_reason is FinishReason.STOP
    _wait_until_idle(mesh)


def test_it_ends_where_the_context_does(mesh: Mesh) -> None:
    generation = mesh.generate(PROMPT, sampling=endless(mesh)).wait()
    assert generation.finish_reason is FinishReason.LENGTH
    assert generation.usage.prompt_tokens + generation.usage.completion_tokens == N_CTX


def test_logprobs_are_of_the_likeliest_first_and_the_greedy_token_is_the_first(mesh: Mesh) -> None:
    sampling = SamplingParams(temperature=0, logprobs=True, n_top_logprobs=5)
    for token in mesh.generate(PROMPT, sampling=sampling, max_tokens=5):
        likeliest = token.top_logprobs
        assert len(likeliest) == 5
        assert (likeliest[0].id, likeliest[0].logprob, likeliest[0].piece) == (token.id, token.logprob, token.piece)
        logprobs = [top.logprob for top in likeliest]
        assert logprobs == sorted(logprobs, reverse=True)
        assert logprobs[0] <= 0


def test_a_grammar_is_kept(mesh: Mesh) -> None:
    sampling = SamplingParams(temperature=0.8, seed=1, grammar='root ::= ("yes" | "no") "!"')
    generation = mesh.generate("Is it?", sampling=sampling, max_tokens=20).wait()
    assert generation.text in ("yes!", "no!")
    assert generation.finish_reason is FinishReason.STOP


def test_a_control_token_that_is_visible_is_part_of_the_text(mesh: Mesh) -> None:
    (shown,) = mesh.special_tokens(["<|im_start|>", "of many tokens"])
    grammar = 'root ::= "<|im_start|>yes"'
    sampling = SamplingParams(temperature=0, grammar=grammar, logit_bias=((shown, 100.0),), visible_tokens=(shown,))
    generation = mesh.generate("Is it?", sampling=sampling, max_tokens=20).wait()
    assert generation.tokens[0].id == shown
    assert generation.text == "<|im_start|>yes"


def test_a_prompt_that_does_not_fit_is_refused_and_the_mesh_goes_on(mesh: Mesh) -> None:
    with pytest.raises(PromptTooLongError, match=f"and the context of a sequence {N_CTX}"):
        mesh.generate("a long story " * N_CTX)
    with pytest.raises(InvalidRequestError):
        mesh.generate(PROMPT, max_tokens=0)
    assert mesh.generate(PROMPT, sampling=GREEDY, max_tokens=3).wait().finish_reason == "length"


def test_a_cancelled_request_frees_its_slot_for_one_that_waits(workers: list[WorkerProcess]) -> None:
    with open_mesh(workers[:2], parallel=1) as mesh:
        first = mesh.generate(PROMPT, sampling=endless(mesh))
        waiting = mesh.generate(PROMPT, sampling=GREEDY, max_tokens=3)
        next(first)
        assert (mesh.n_running, mesh.n_waiting) == (1, 1)
        first.cancel()
        assert waiting.wait().usage.completion_tokens == 3
        assert first.wait().finish_reason is FinishReason.CANCELLED
        assert len(first.tokens) < N_CTX // 2
        _wait_until_idle(mesh)


def test_a_request_that_waits_can_be_cancelled(workers: list[WorkerProcess]) -> None:
    with open_mesh(workers[:2], parallel=1) as mesh:
        first = mesh.generate(PROMPT, sampling=endless(mesh))
        waiting = mesh.generate(PROMPT)
        waiting.close()
        assert (waiting.finish_reason, waiting.tokens) == (FinishReason.CANCELLED, ())
        first.close()
        assert first.finish_reason is FinishReason.CANCELLED


def test_a_dropped_request_is_cancelled(mesh: Mesh) -> None:
    for _ in mesh.generate(PROMPT, sampling=endless(mesh)):
        break
    gc.collect()
    _wait_until_idle(mesh)


def test_requests_beyond_slots_and_queue_are_refused_at_once(workers: list[WorkerProcess]) -> None:
    with open_mesh(workers[:2], parallel=1, queue=1) as mesh:
        running = [mesh.generate(PROMPT, sampling=endless(mesh)) for _ in range(2)]
        with pytest.raises(OverloadedError):
            mesh.generate(PROMPT)
        running[0].close()
        mesh.generate(PROMPT, max_tokens=1).close()


async def test_on_an_event_loop_requests_run_beside_each_other(workers: list[WorkerProcess]) -> None:
    addresses = [worker.address for worker in workers[:2]]
    async with await AsyncMesh.open("demo", workers=addresses, discover=False, context=N_CTX) as mesh:
        expected = await mesh.generate(PROMPT, sampling=GREEDY, max_tokens=20)
        together = await asyncio.gather(
            *(mesh.generate(PROMPT, sampling=GREEDY, max_tokens=20)._run_to_end() for _ in range(4))
        )
        assert {generation.text for generation in together} == {expected.text}
        running = mesh.generate(PROMPT, sampling=endless(mesh))
        async for _ in running:
            break
        await running.aclose()
        assert running.finish_reason is FinishReason.CANCELLED
        assert mesh.n_running == 0
        texts = [token.text async for token in mesh.generate(PROMPT, sampling=GREEDY, max_tokens=20)]
        assert "".join(texts) == expected.text


async def test_a_task_that_is_cancelled_while_it_waits_cancels_its_request(workers: list[WorkerProcess]) -> None:
    addresses = [worker.address for worker in workers[:2]]
    async with await AsyncMesh.open("demo", workers=addresses, discover=False, context=N_CTX) as mesh:
        reading = asyncio.Event()

        async def read() -> None:
            async for _ in mesh.generate(PROMPT, sampling=endless(mesh)):
                reading.set()

        task = asyncio.get_running_loop().create_task(read())
        await reading.wait()
        assert mesh.n_running == 1
        task.cancel()
        await asyncio.wait([task])
        del task  # and with it the exception, its traceback, and the iterator in there
        gc.collect()
        # The request is called off by a callback of the loop, and its slot freed in the same turn.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert mesh.n_running == 0
