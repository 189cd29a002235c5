# SPDX-License-Identifier: MIT
"""Before anything is planned, every worker is offered the model: it gets the header where it has none, so that it can
tell what stages would take without a file, and says which tensors it has. Used when a mesh opens, on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coordinator.control import WorkerClient
from coordinator.errors import CaravanError, SourceError
from coordinator.weights.source import WeightSource
from coordinator.workers import FoundWorker, LeftOutWorker

_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Offered:
    """Who has the model's header now, with what it holds of the rest; and who would not take it."""

    workers: tuple[FoundWorker, ...]
    left_out: tuple[LeftOutWorker, ...] = ()


async def offer_all(
    source: WeightSource, workers: Sequence[FoundWorker], clients: Mapping[str, WorkerClient]
) -> Offered:
    """Offers it to all at once. Those that take weights nowhere are left as they are: they read files of their own.

    Args:
        clients: By worker name.

    Raises:
        SourceError: The header cannot be read any more.
    """
    answers = await asyncio.gather(*(_offer(source, worker, clients[worker.name]) for worker in workers))
    return Offered(
        tuple(answer for answer in answers if isinstance(answer, FoundWorker)),
        tuple(answer for answer in answers if isinstance(answer, LeftOutWorker)),
    )


async def _offer(source: WeightSource, worker: FoundWorker, client: WorkerClient) -> FoundWorker | LeftOutWorker:
    if not worker.weights_port:
        return worker
    try:
        offer = await client.offer(source.told_path, source.layout.identity, source.parts)
        if not offer.has_header:
            await client.put_header(source.layout.identity, _header(source))
    except SourceError:
        raise
    except CaravanError as error:
        return LeftOutWorker(worker.name, worker.address, error)
    n_bytes = (len(source.layout.tensors) + 7) // 8
    return replace(worker, held_tensors=offer.held_tensors[:n_bytes])


async def _header(source: WeightSource) -> AsyncIterator[tuple[int, bytes]]:
    """The headers of all parts in chunks, each with its part's number."""
    for number, (part, path) in enumerate(zip(source.parts, source.layout.files, strict=True)):
        for offset in range(0, part.n_header_bytes, _CHUNK_BYTES):
            n_bytes = min(_CHUNK_BYTES, part.n_header_bytes - offset)
            yield number, await asyncio.to_thread(_read, path, offset, n_bytes)


def _read(path: Path, offset: int, n_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(n_bytes)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) != n_bytes:
        raise SourceError(f"{path} changed after it was opened: leave it as it is, and load it anew")
    return data
