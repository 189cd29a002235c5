# SPDX-License-Identifier: MIT
"""Who takes part in a mesh: workers that are found, or started here where there is none, connected to, and offered the
model. Used when a mesh opens, on the event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.claims import OpeningClaim
from coordinator.control import WorkerClient
from coordinator.diagnosis.graphics import graphics_cards, neglected_card
from coordinator.discovery import Discovery, discover
from coordinator.errors import NoWorkersError, PlanError, WorkerBusyError
from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.local_workers import LocalWorkers
from coordinator.membership import own_channels, strangers_text
from coordinator.options import MeshOptions
from coordinator.weights.offering import offer_all
from coordinator.weights.source import WeightSource
from coordinator.wishes import Distribution, Wishes
from coordinator.workers import FoundWorker, LeftOutWorker
from native import devices
from protos.channels import Channels


@dataclass(frozen=True, slots=True)
class Team:
    """The workers that know the model, and what is wished of them.

    Attributes:
        local: Those of its own, if it started some.
        drafting: The one that a draft model is to be on, whether it takes part in the line or not.
    """

    found: Discovery
    clients: Mapping[str, WorkerClient]
    wishes: Wishes
    channels: Channels
    local: LocalWorkers | None = None
    drafting: FoundWorker | None = None


async def gather_team(
    options: MeshOptions,
    source: WeightSource,
    on_progress: OnProgress,
    resources: contextlib.AsyncExitStack,
    claim: OpeningClaim,
) -> Team:
    """Finds them, and has them know the model.

    Args:
        resources: Takes what is opened, to be closed.
        claim: Takes all of them.

    Raises:
        CaravanError: There is none, one that was asked for cannot take part, or they are not as the options say.
    """
    channels = own_channels(insecure=options.insecure_workers)
    wishes, local = options.wishes, None
    required = () if claim.claims.has_served else options.workers
    async with claim.claims.turn:
        all_found = await _find_workers(options, channels, on_progress, claim.lent.values())
        drafting = _drafting(all_found, options)
        found = _without_serving(_only_wanted(all_found, options), {*claim.taken, *claim.lent})
        _tell_left_out(found.left_out, required, on_progress)
        found = _without_claimed(found, claim.taken)
        claim.note([worker.name for worker in found.found])
    if not found.found:
        local = LocalWorkers(plain=not channels.is_secure, taken=claim.taken)
        found = await _start_workers(options, channels, local, found, on_progress, resources)
        claim.note([worker.name for worker in found.found])
        if wishes.distribution is Distribution.AUTO:
            # So many were asked for.
            wishes = replace(wishes, distribution=Distribution.ON)
    clients = _connect(found, channels, resources)
    found = await _offer(required, source, found, clients, on_progress)
    return Team(found, clients, wishes, channels, local, drafting)


async def _offer(
    required: Collection[str],
    source: WeightSource,
    found: Discovery,
    clients: Mapping[str, WorkerClient],
    on_progress: OnProgress,
) -> Discovery:
    """The workers that know the model now; those that would not be offered it are left out."""
    offered = await offer_all(source, found.found, clients)
    _tell_left_out(offered.left_out, required, on_progress)
    left_out = (*found.left_out, *offered.left_out)
    if not offered.workers:
        raise _no_workers(left_out)
    return Discovery(offered.workers, left_out)


async def _find_workers(
    options: MeshOptions, channels: Channels, on_progress: OnProgress, lent: Iterable[str]
) -> Discovery:
    """The workers that answer, and those that cannot take part.

    Args:
        lent: Addresses of some that may not show themselves.
    """
    if options.discover:
        on_progress(LoadEvent(LoadPhase.DISCOVERING, "looking for workers on the network"))
    ranges = options.layer_ranges
    is_any = not (options.only or options.exclude or options.draft_on)
    wanted = len(ranges) if ranges is not None and is_any else None
    return await discover(
        [*options.workers, *filter(None, lent)],
        channels=channels,
        insecure=options.insecure_workers,
        mdns=options.discover,
        timeout_s=options.discovery_timeout_s,
        wanted=wanted,
        telemetry=False,
    )


def _drafting(found: Discovery, options: MeshOptions) -> FoundWorker | None:
    """The worker that a draft model is to be on, if it is to be on one."""
    if options.draft_on is None:
        return None
    for worker in found.found:
        if worker.name == options.draft_on:
            return worker
    there = ", ".join(sorted(worker.name for worker in found.found)) or "none"
    raise PlanError(f"no worker is named {options.draft_on}, which is to run the draft model; found: {there}")


def _tell_left_out(left_out: Sequence[LeftOutWorker], required: Collection[str], on_progress: OnProgress) -> None:
    """Who is required, by address, may not be left out: then the reason is raised."""
    for worker in left_out:
        if worker.address in required:
            raise worker.error
        on_progress(LoadEvent(LoadPhase.LEFT_OUT, f"left out: {worker.name}: {worker.reason}", worker=worker.name))


async def _start_workers(
    options: MeshOptions,
    channels: Channels,
    local: LocalWorkers,
    found: Discovery,
    on_progress: OnProgress,
    resources: contextlib.AsyncExitStack,
) -> Discovery:
    """Workers of this mesh's own, on this machine, if that is wanted."""
    if not options.local_workers:
        raise _no_workers(found.left_out, strangers_text(found.n_strangers, channels))
    if found.n_strangers:
        on_progress(LoadEvent(LoadPhase.LEFT_OUT, strangers_text(found.n_strangers, channels)))
    on_progress(
        LoadEvent(
            LoadPhase.STARTING,
            f"no worker was found: starting {counted(options.local_workers, 'worker')} on this machine",
        )
    )
    neglected = neglected_card([device.kind for device in devices()], graphics_cards())
    if neglected is not None:
        on_progress(LoadEvent(LoadPhase.LEFT_OUT, neglected))
    resources.push_async_callback(local.close)
    started = await discover(await local.start(options.local_workers), channels=channels, mdns=False, telemetry=False)
    if started.left_out:
        raise started.left_out[0].error
    return Discovery(started.found, found.left_out)


def _only_wanted(found: Discovery, options: MeshOptions) -> Discovery:
    """Without the workers that the user does not want."""
    names = {worker.name for worker in found.found}
    unknown = sorted({*options.only, *options.exclude} - names - {worker.name for worker in found.left_out})
    if unknown:
        there = ", ".join(sorted(names)) or "none"
        raise PlanError(f"no worker is named {', '.join(unknown)}; found: {there}")
    kept = tuple(worker for worker in found.found if options.wants(worker.name))
    if names and not kept:
        raise NoWorkersError(f"of the workers found ({', '.join(sorted(names))}) none may take part")
    return replace(found, found=kept)


def _without_claimed(found: Discovery, taken: Collection[str]) -> Discovery:
    """Leaves out the workers that other models of this coordinator have.

    Raises:
        NoWorkersError: They have all; then none are started here either.
    """
    claimed = [worker for worker in found.found if worker.name in taken]
    free = tuple(worker for worker in found.found if worker.name not in taken)
    if claimed and not free:
        names = ", ".join(worker.name for worker in claimed)
        raise NoWorkersError(f"other models have all workers that could take part ({names}): unload one of them")
    left_out = tuple(
        LeftOutWorker(worker.name, worker.address, PlanError("it has layers of another model of this server"))
        for worker in claimed
    )
    return replace(found, found=free, left_out=(*found.left_out, *left_out))


def _without_serving(found: Discovery, ours: Collection[str]) -> Discovery:
    """Leaves out the workers that serve another coordinator: loading there would end its answers."""
    serving = tuple(
        LeftOutWorker(
            worker.name,
            worker.address,
            WorkerBusyError(
                f"worker {worker.name} serves another coordinator now: end that one, or start another worker",
                worker=worker.name,
                retry_safe=True,
            ),
        )
        for worker in found.found
        if worker.is_serving and worker.name not in ours
    )
    gone = {worker.name for worker in serving}
    free = tuple(worker for worker in found.found if worker.name not in gone)
    return replace(found, found=free, left_out=(*found.left_out, *serving))


def _connect(found: Discovery, channels: Channels, resources: contextlib.AsyncExitStack) -> Mapping[str, WorkerClient]:
    clients = {}
    for worker in found.found:
        clients[worker.name] = client = WorkerClient(worker.address, channels, worker.name)
        resources.push_async_callback(client.close)
    return clients


def _no_workers(left_out: Sequence[LeftOutWorker], strangers: str = "") -> NoWorkersError:
    found = f"no worker was found on the network ({strangers})" if strangers else "no worker was found on the network"
    if left_out:
        found = "no worker can take part (" + "; ".join(f"{worker.name}: {worker.reason}" for worker in left_out) + ")"
    return NoWorkersError(f"{found}: start one with `caravan worker`, or name one that runs by its HOST:PORT")


def counted(n: int, noun: str) -> str:
    """ "1 worker", "2 workers"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
