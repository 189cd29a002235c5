# SPDX-License-Identifier: MIT
"""Answers given whole, when they are finished, and what all answers wait for. Runs on the server's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel

from coordinator.errors import CancelledError
from coordinator.generation import AsyncGeneration, FinishReason
from coordinator.http.forms import Form
from coordinator.http.merge import merged
from coordinator.http.pieces import Finished
from coordinator.http.schemas.answer import CompletionTokensDetails, PromptTokensDetails, Usage

Made = TypeVar("Made")


class ClientGoneError(Exception):
    """The client left before its answer was finished; its generations are cancelled."""


async def collect(request: Request, form: Form, generations: Sequence[AsyncGeneration], n_choices: int) -> BaseModel:
    """The whole answer, once all generations have ended.

    Args:
        request: its body has been read.
        form: of the answer.
        generations: for each prompt `n_choices` of them.
        n_choices: answers to one prompt.

    Raises:
        CaravanError: a generation failed; the others are cancelled.
        ClientGoneError: nobody is left to read the answer.
    """
    await until_ended(request, generations)
    answers = [finished_of(index, generation) for index, generation in enumerate(generations)]
    return form.whole(answers, usage_of(generations, n_choices))


def finished_of(index: int, generation: AsyncGeneration) -> Finished:
    """A generation that has ended, as the answer with that number.

    Raises:
        CancelledError: As `reason_of`.
    """
    reason = reason_of(generation)
    return Finished(index, generation.tokens, generation.text, reason, generation.usage, generation.stream.slot)


async def until_ended(request: Request, generations: Sequence[AsyncGeneration]) -> None:
    """Returns when all of them have ended.

    Raises:
        CaravanError: one failed; the others are cancelled.
        ClientGoneError: nobody is left to read the answer.
    """
    try:
        await while_connected(request, _run_to_end(generations))
    finally:
        for generation in generations:  # a reading task that never began cannot end them
            generation.cancel()


async def until_begun(request: Request, generations: Sequence[AsyncGeneration]) -> None:
    """Returns when there is something to stream, so that what fails before has an HTTP status.

    Raises:
        CaravanError: one failed before any had a token; the others are cancelled.
        ClientGoneError: nobody is left to read the answer; they are cancelled.
    """
    try:
        await while_connected(request, _first_of(generations))
    except BaseException:
        for generation in generations:
            generation.cancel()
        raise


async def while_connected(request: Request, work: Coroutine[Any, Any, Made]) -> Made:
    """What the work gives.

    Args:
        request: its body has been read.
        work: cancelled if the client leaves before it is done.

    Raises:
        ClientGoneError: nobody is left to read the answer.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def usage_of(generations: Sequence[AsyncGeneration], n_choices: int) -> Usage:
    """What the request took: every prompt once, every generated token."""
    n_prompt = sum(generation.usage.prompt_tokens for generation in generations[::n_choices])
    n_cached = sum(generation.usage.cached_tokens for generation in generations[::n_choices])
    n_guessed = sum(generation.usage.guessed_tokens for generation in generations)
    n_completion = sum(generation.usage.completion_tokens for generation in generations)
    return Usage(
        prompt_tokens=n_prompt,
        completion_tokens=n_completion,
        total_tokens=n_prompt + n_completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=n_cached),
        completion_tokens_details=CompletionTokensDetails(accepted_prediction_tokens=n_guessed),
    )


def reason_of(generation: AsyncGeneration) -> FinishReason:
    """Why a generation that ended did so.

    Raises:
        CancelledError: it was called off, and not by its client, who would not be told.
    """
    reason = generation.finish_reason
    if reason is None or reason is FinishReason.CANCELLED:
        raise CancelledError("the request was called off because the server stops")
    return reason


async def _run_to_end(generations: Sequence[AsyncGeneration]) -> None:
    events = merged(generations)
    try:
        async for _ in events:
            pass
    finally:
        await events.aclose()


async def _first_of(generations: Sequence[AsyncGeneration]) -> None:
    waits = [asyncio.ensure_future(generation.begun()) for generation in generations]
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            wait.result()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
