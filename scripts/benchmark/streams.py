# SPDX-License-Identifier: MIT
"""Requests that run side by side on one mesh, and when each of their tokens came. On the mesh's loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from types import TracebackType

from coordinator import AsyncMesh, SamplingParams

_FIRST_WORD, _END_OF_SEQUENCE = 300, 2
_GREEDY = SamplingParams(temperature=0, logit_bias=((_END_OF_SEQUENCE, float("-inf")),))


class Streams:
    """Streams that began together, numbered from 0; those that still run end with the context.

    Attributes:
        at_s: Of each stream, when its tokens came, by the clock that frames are logged with.
    """

    def __init__(self, mesh: AsyncMesh, n_streams: int, n_prompt: int) -> None:
        self.at_s: list[list[float]] = [[] for _ in range(n_streams)]
        self._arrived = asyncio.Event()
        self._tasks = [
            asyncio.ensure_future(self._follow(mesh, prompt(n_prompt, number), at_s))
            for number, at_s in enumerate(self.at_s)
        ]

    async def __aenter__(self) -> Streams:
        """All have a token."""
        await self.until(lambda: all(self.at_s))
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def n_tokens(self) -> int:
        """Of all of them so far."""
        return sum(map(len, self.at_s))

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Returns when that is so, looking at every token.

        Raises:
            RuntimeError: A stream has ended, so that they do not run side by side any more.
        """
        while not is_so():
            if any(task.done() for task in self._tasks):
                raise RuntimeError("a stream came to the end of its context before the measurement did")
            self._arrived.clear()
            await self._arrived.wait()

    def gaps_s(self, start_s: float, end_s: float) -> list[float]:
        """Between tokens of one stream, of those that came in that time, of all streams."""
        within = ([at for at in at_s if start_s <= at <= end_s] for at_s in self.at_s)
        return [after - before for at_s in within for before, after in pairwise(at_s)]

    async def _follow(self, mesh: AsyncMesh, tokens: Sequence[int], at_s: list[float]) -> None:
        try:
            await follow(mesh, tokens, None, at_s, self._arrived)
        finally:
            self._arrived.set()


async def follow(
    mesh: AsyncMesh,
    tokens: Sequence[int],
    n_tokens: int | None,
    at_s: list[float],
    arrived: asyncio.Event | None = None,
) -> None:
    """One request, to its end.

    Args:
        n_tokens: None: to the end of the context.
        at_s: Gets the time of each token.
        arrived: Set with each token.
    """
    generation = mesh.generate(tokens, sampling=_GREEDY, max_tokens=n_tokens, cache_prompt=False)
    try:
        async for _ in generation:
            at_s.append(time.monotonic())
            if arrived is not None:
                arrived.set()
    finally:
        await generation.aclose()


def prompt(n_tokens: int, number: int) -> list[int]:
    """Tokens that no other number's prompt begins with."""
    return [1, *(_FIRST_WORD + (7 * i + 131 * number) % 1000 for i in range(n_tokens - 1))]
