# SPDX-License-Identifier: MIT
"""What a caller holds: tokens in order, then the end, for a loop and for a thread; dropping it cancels."""

import asyncio
import gc
import threading

import pytest

from coordinator.admission import AdmittedRequest
from coordinator.errors import EngineError
from coordinator.generation import AsyncGeneration, FinishReason, Generation, Token, TokenStream, Usage
from coordinator.loop_thread import ThreadSignal
from native import SamplingParams

_USAGE = Usage(2, 2, decode_s=0.5)


def _nothing() -> None:
    """Cancels nothing."""


def _threaded() -> tuple[TokenStream, Generation]:
    arrived = ThreadSignal()
    stream = TokenStream((1, 2), arrived)
    return stream, Generation(stream, _nothing, arrived)


def test_a_thread_gets_tokens_as_they_come_and_then_the_end() -> None:
    stream, generation = _threaded()

    def produce() -> None:
        stream.push(Token(5, "a"))
        stream.push(Token(6, "b"))
        stream.finish(FinishReason.STOP, _USAGE)

    producer = threading.Timer(0.05, produce)
    producer.start()
    assert [token.text for token in generation] == ["a", "b"]
    producer.join()
    assert (generation.text, generation.finish_reason, generation.usage) == ("ab", "stop", _USAGE)
    assert generation.prompt_tokens == (1, 2)


async def test_a_loop_gets_tokens_as_they_come_and_then_the_end() -> None:
    arrived = asyncio.Event()
    stream = TokenStream((1, 2), arrived)
    generation = AsyncGeneration(stream, _nothing, arrived, AdmittedRequest((), 1, (), SamplingParams()))
    asyncio.get_running_loop().call_later(0.02, stream.push, Token(5, "a"))
    asyncio.get_running_loop().call_later(0.04, stream.finish, FinishReason.LENGTH, _USAGE)
    assert [token.id async for token in generation] == [5]
    assert (await generation) is generation
    assert generation.finish_reason is FinishReason.LENGTH


def test_tokens_that_arrived_come_before_the_error() -> None:
    stream, generation = _threaded()
    stream.push(Token(5, "a"))
    stream.fail(EngineError("llama.cpp failed", worker="attic"), _USAGE)
    assert next(generation).text == "a"
    with pytest.raises(EngineError):
        next(generation)
    with pytest.raises(EngineError):
        generation.wait()
    assert generation.finish_reason is None


def test_the_first_end_stays() -> None:
    stream, generation = _threaded()
    stream.finish(FinishReason.STOP, _USAGE)
    stream.fail(EngineError("too late", worker="attic"), _USAGE)
    assert generation.wait().finish_reason is FinishReason.STOP


def test_what_is_dropped_while_it_runs_is_cancelled() -> None:
    cancelled = threading.Event()
    arrived = ThreadSignal()
    generation = Generation(TokenStream((1,), arrived), cancelled.set, arrived)
    del generation
    gc.collect()
    assert cancelled.is_set()


def test_what_has_ended_is_not_cancelled_any_more() -> None:
    cancelled = threading.Event()
    arrived = ThreadSignal()
    stream = TokenStream((1,), arrived)
    generation = Generation(stream, cancelled.set, arrived)
    stream.finish(FinishReason.STOP, _USAGE)
    generation.cancel()
    del generation
    gc.collect()
    assert not cancelled.is_set()


def test_usage_knows_the_speed() -> None:
    assert Usage(1, 11, decode_s=2.0).decode_tokens_per_s == 5.0
    assert Usage(1, 1).decode_tokens_per_s == 0.0
