# SPDX-License-Identifier: MIT
"""Several generations read as one stream of tokens. Runs on the server's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from coordinator.generation import AsyncGeneration, PromptProgress, Token

_MAX_AHEAD = 64
"""Tokens read ahead of a slow client; what more there is stays with the generations."""


@dataclass(frozen=True, slots=True)
class Event:
    """A token of one generation, or how far its prompt is, or, with neither, that generation's end."""

    index: int
    token: Token | None
    progress: PromptProgress | None = None

    @property
    def is_end(self) -> bool:
        return self.token is None and self.progress is None


async def merged(generations: Sequence[AsyncGeneration]) -> AsyncGenerator[Event, None]:
    """Tokens of all generations as they come, how far prompts are where that was asked for, each generation's end once.

    The first failure ends it. However it ends, closing included, no generation is left running.

    Raises:
        CaravanError: as the generations do.
    """
    events: asyncio.Queue[Event | Exception] = asyncio.Queue(_MAX_AHEAD)
    readers = [asyncio.create_task(_read(i, generation, events)) for i, generation in enumerate(generations)]
    n_running = len(readers)
    try:
        while n_running > 0:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            n_running -= event.is_end
            yield event
    finally:
        for generation in generations:
            generation.cancel()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _read(index: int, generation: AsyncGeneration, events: asyncio.Queue[Event | Exception]) -> None:
    try:
        if generation.request.tells_progress:
            async for progress in generation.prompt_progress():
                await events.put(Event(index, None, progress))
        async for token in generation:
            await events.put(Event(index, token))
    except Exception as error:  # handed to the one who reads the stream
        await events.put(error)
    else:
        await events.put(Event(index, None))
