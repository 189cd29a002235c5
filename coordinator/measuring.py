# SPDX-License-Identifier: MIT
"""What the planner wants to know of speed: every device's times for this model, and every link's. Measured by the
workers themselves (which remember their own), once per model; used by `loading`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.control import BenchmarkOrder, WorkerClient
from coordinator.errors import CaravanError
from coordinator.plan import Demand
from coordinator.prediction import COORDINATOR, Links
from coordinator.speed import Speed, layer_kinds, runs_to_measure, speed_of
from coordinator.workers import FoundWorker, Link
from native import ContextParams, ModelLayout

_LIMIT_S = 2.0
"""Of computing, per run. A slow CPU does not get to large batches in that time, and need not."""

_PREFILL_TOKENS = 64
"""A batch between decode and a full one: the curve bends there."""

_N_PINGS = 5
_PING_BYTES = 4096
_BULK_BYTES = 1 << 20

_MAX_PAIRED = 8
"""Machines whose links to each other are all measured; of more, only those to the coordinator are."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found out.

    Attributes:
        speeds: By worker name; who could not be measured is missing.
        notes: Sentences about those.
    """

    speeds: Mapping[str, Speed]
    links: Links
    notes: tuple[str, ...]


async def measure_all(
    layout: ModelLayout,
    told_path: str,
    params: ContextParams,
    demand: Demand,
    workers: Sequence[FoundWorker],
    clients: Mapping[str, WorkerClient],
) -> Measured:
    """Has every device and every link measured. Devices of one machine in turn, others at the same time.

    Args:
        told_path: As in WeightSource.
        clients: By worker name.
    """
    kinds = layer_kinds(layout)
    weights_bytes = [layer.weights_bytes for layer in demand.costs.layers]
    order = BenchmarkOrder(
        told_path,
        layout.identity,
        replace(params, n_ctx_seq=max(256, params.n_batch)),
        tuple(runs_to_measure(kinds, weights_bytes)),
        batch_sizes=tuple(_batch_sizes(params)),
        limit_s=_LIMIT_S,
    )
    errors: dict[str, CaravanError] = {}

    async def measure_device(sharers: Sequence[FoundWorker]) -> dict[str, Speed]:
        """One worker measures for all that share its device."""
        client = clients[sharers[0].name]
        try:
            measured = await client.benchmark(order)
        except CaravanError as error:
            errors[sharers[0].name] = error
            return {}
        speed = speed_of(kinds, weights_bytes, measured.runs)
        return {sharer.name: speed for sharer in sharers}

    async def measure_host(devices: Sequence[Sequence[FoundWorker]]) -> list[dict[str, Speed]]:
        return [await measure_device(sharers) for sharers in devices]

    by_host = await asyncio.gather(*map(measure_host, _by_host(workers)))
    speeds = {name: speed for devices in by_host for some in devices for name, speed in some.items()}
    links = await _measure_links([worker for worker in workers if worker.name in speeds], clients)
    notes = tuple(f"the speed of {name} is not known: {error}" for name, error in errors.items())
    return Measured(speeds, links, notes)


def _by_host(workers: Sequence[FoundWorker]) -> list[list[list[FoundWorker]]]:
    """Workers by machine, and there by device."""
    hosts: dict[str, dict[str, list[FoundWorker]]] = {}
    for worker in workers:
        hosts.setdefault(worker.host_name, {}).setdefault(worker.device.name, []).append(worker)
    return [list(devices.values()) for devices in hosts.values()]


def _batch_sizes(params: ContextParams) -> list[int]:
    """One token, a token of each of some and of all sequences, and pieces of a prompt."""
    decode = {size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size < params.n_seq_max} | {params.n_seq_max}
    prefill = {size for size in (_PREFILL_TOKENS, params.n_batch) if params.n_seq_max < size <= params.n_batch}
    return sorted(decode | prefill)


async def _measure_links(workers: Sequence[FoundWorker], clients: Mapping[str, WorkerClient]) -> Links:
    """Links are between machines: one worker measures for all of its own. One link after the other, so that none slows
    another down; who cannot be reached has none.
    """
    hosts: dict[str, list[FoundWorker]] = {}
    for worker in workers:
        hosts.setdefault(worker.host_name, []).append(worker)
    between: dict[tuple[str, str], Link] = {}
    for residents in hosts.values():
        # Who does not answer any more fails its dry run, with the sentence for it.
        with contextlib.suppress(CaravanError):
            link = await _own_link(clients[residents[0].name])
            between.update({(COORDINATOR, resident.name): link for resident in residents})
    if len(hosts) > _MAX_PAIRED:
        return Links(between)
    for here, there in itertools.combinations_with_replacement(hosts.values(), 2):
        first, second = here[0], there[-1]
        if first is second:
            continue
        # A worker that does not reach the other fails the load later, with the sentence for it.
        with contextlib.suppress(CaravanError):
            link = await clients[first.name].measure_link(second.address, second.name)
            between.update({(a.name, b.name): link for a in here for b in there if a is not b})
    return Links(between)


async def _own_link(client: WorkerClient) -> Link:
    await client.echo(_PING_BYTES)  # connects
    round_trip_s = statistics.median([await client.echo(_PING_BYTES) for _ in range(_N_PINGS)])
    bulk_s = await client.echo(_BULK_BYTES)
    return Link(round_trip_s, 2 * _BULK_BYTES / max(1e-6, bulk_s - round_trip_s))
