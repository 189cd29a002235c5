# SPDX-License-Identifier: MIT
"""What the planner wants to know of speed: every device's times for this model, and every link's. Measured by the
workers themselves (which remember their own), once per model; used by `confirming`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.candidates import Candidate
from coordinator.control import WorkerClient
from coordinator.errors import CaravanError, DoesNotFitError
from coordinator.orders import BenchmarkOrder
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
        speeds: By worker name.
        errors: Of those who could not be measured.
    """

    speeds: Mapping[str, Speed]
    links: Links
    errors: Mapping[str, CaravanError]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a model in a context, by whom. `told_path`: as in WeightSource."""

    layout: ModelLayout
    told_path: str
    params: ContextParams
    demand: Demand
    workers: Sequence[FoundWorker]
    clients: Mapping[str, WorkerClient]


async def measure_all(subject: Subject) -> Measured:
    """Has every device and every link measured. Devices of one machine in turn, others at the same time."""
    speeds, errors = await _measure_devices(subject, subject.workers, hosted=False)
    there = {*speeds, *(name for name, error in errors.items() if isinstance(error, DoesNotFitError))}
    links = await _measure_links([worker for worker in subject.workers if worker.name in there], subject.clients)
    return Measured(speeds, links, errors)


class Measurements:
    """What was measured for one model while its mesh is open. Who was measured once is not measured again: when a line
    broke, its requests wait for the plan."""

    def __init__(self) -> None:
        self._known = Measured({}, Links({}), {})
        self._devices: dict[str, tuple[str, str]] = {}
        self._turn = asyncio.Lock()

    async def of(self, subject: Subject, *, patience_s: float | None) -> Measured:
        """Of these workers.

        Args:
            patience_s: Only what is not known is measured, and who takes longer for that is taken as he comes. None:
                everything is.
        """
        if patience_s is None:
            self._known = await measure_all(subject)
            self._note(subject.workers)
            return self._known
        # Several plans are made at once, and a worker that measures refuses to do it twice.
        async with self._turn:
            new = [worker for worker in subject.workers if self._devices.get(worker.name) != _place(worker)]
            if new:
                with contextlib.suppress(asyncio.TimeoutError):
                    self._known = await asyncio.wait_for(self._with(replace(subject, workers=new), subject), patience_s)
                    self._note(new)
            return self._known

    async def _with(self, new: Subject, everybody: Subject) -> Measured:
        speeds, errors = await _measure_devices(new, new.workers, hosted=False)
        links = await _measure_links(everybody.workers, everybody.clients)
        known = self._known
        between = {**known.links.between, **links.between}
        return Measured({**known.speeds, **speeds}, Links(between), {**known.errors, **errors})

    def _note(self, workers: Sequence[FoundWorker]) -> None:
        """These need not be measured again, but for those who could not be for a reason that may pass."""
        known = self._known
        self._devices |= {
            worker.name: _place(worker)
            for worker in workers
            if worker.name in known.speeds or isinstance(known.errors.get(worker.name), DoesNotFitError)
        }


def _place(worker: FoundWorker) -> tuple[str, str]:
    return worker.host_name, worker.device.name


class HostedSpeeds:
    """How long layers take where their experts lie in system memory. Measured when it is asked for first, and then
    known: that is only where GPU memory does not suffice, or somebody wants to compare.

    Args:
        speeds: As measured without, by worker name.
    """

    def __init__(self, subject: Subject, speeds: Mapping[str, Speed]) -> None:
        self._subject = subject
        self._speeds = dict(speeds)
        self._is_measured = False
        self.errors: dict[str, CaravanError] = {}
        """Why some workers could not be measured, by name."""

    async def added_to(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The candidates with these speeds, where system memory may be used. Where the device could not be measured,
        because no layer fits it whole, all layers count as if their experts lay there."""
        if not self._is_measured:
            self._is_measured = True
            users = [worker for worker in self._subject.workers if worker.device.host_free_bytes]
            hosted, self.errors = await _measure_devices(self._subject, users, hosted=True)
            self._speeds |= {
                name: replace(self._speeds.get(name, speed), hosted=speed.layers) for name, speed in hosted.items()
            }
        return [replace(each, speed=self._speeds.get(each.name, each.speed)) for each in candidates]


async def _measure_devices(
    subject: Subject, workers: Sequence[FoundWorker], *, hosted: bool
) -> tuple[dict[str, Speed], dict[str, CaravanError]]:
    """The speeds of workers by name, and why some have none.

    Args:
        hosted: With the experts of all layers in system memory.
    """
    kinds = layer_kinds(subject.layout)
    layers = subject.demand.costs.layers
    weights_bytes = [layer.weights_bytes for layer in layers]
    runs = tuple(runs_to_measure(kinds, weights_bytes))
    order = BenchmarkOrder(
        subject.told_path,
        subject.layout.identity,
        replace(subject.params, n_ctx_seq=min(subject.params.n_ctx_seq, max(256, subject.params.n_batch))),
        runs,
        batch_sizes=tuple(_batch_sizes(subject.params)),
        limit_s=_LIMIT_S,
        n_cpu_moe=tuple(subject.demand.n_cpu_moe(run, run.end) for run in runs) if hosted else (),
    )
    errors: dict[str, CaravanError] = {}

    async def measure_device(sharers: Sequence[FoundWorker]) -> dict[str, Speed]:
        """One worker measures for all that share its device."""
        client = subject.clients[sharers[0].name]
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
    return {name: speed for devices in by_host for some in devices for name, speed in some.items()}, errors


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
