# SPDX-License-Identifier: MIT
"""Who takes part in a mesh: workers that are found, or started here where there is none, connected to, and offered the
model. Used when a mesh opens, on the event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from coordinator.control import WorkerClient
from coordinator.discovery import Discovery, discover
from coordinator.errors import NoWorkersError, PlanError, WorkerBusyError
from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.local_workers import LocalWorkers
from coordinator.membership import own_channels, strangers_text
from coordinator.options import MeshOptions
from coordinator.weights.offering import offer_all
from coordinator.weights.source import WeightSource
from coordinator.wishes import Distribution, Wishes
from coordinator.workers import LeftOutWorker
from protos.channels import Channels


@dataclass(frozen=True, slots=True)
class Team:
    """The workers that know the model, and what is wished of them; `local`: those of its own, if it started some."""

    found: Discovery
    clients: Mapping[str, WorkerClient]
    wishes: Wishes
    channels: Channels
    local: LocalWorkers | None = None


async def gather_team(
    options: MeshOptions, source: WeightSource, on_progress: OnProgress, resources: contextlib.AsyncExitStack
) -> Team:
    """Finds them, and has them know the model.

    Args:
        resources: Takes what is opened, to be closed.

    Raises:
        CaravanError: There is none, one that was asked for cannot take part, or they are not as the options say.
    """
    channels = own_channels(insecure=options.insecure_workers)
    found, wishes, local = await _find_workers(options, channels, on_progress), options.wishes, None
    if not found.found:
        local = LocalWorkers(plain=not channels.is_secure)
        found = await _start_workers(options, channels, local, found, on_progress, resources)
        if wishes.distribution is Distribution.AUTO:
            # So many were asked for.
            wishes = replace(wishes, distribution=Distribution.ON)
    clients = _connect(found, channels, resources)
    return Team(await _offer(options, source, found, clients, on_progress), clients, wishes, channels, local)


async def _offer(
    options: MeshOptions,
    source: WeightSource,
    found: Discovery,
    clients: Mapping[str, WorkerClient],
    on_progress: OnProgress,
) -> Discovery:
    """The workers that know the model now; those that would not be offered it are left out."""
    offered = await offer_all(source, found.found, clients)
    _tell_left_out(offered.left_out, options, on_progress)
    left_out = (*found.left_out, *offered.left_out)
    if not offered.workers:
        raise _no_workers(left_out)
    return Discovery(offered.workers, left_out)


async def _find_workers(options: MeshOptions, channels: Channels, on_progress: OnProgress) -> Discovery:
    """The workers that can take part, and those that cannot."""
    if options.discover:
        on_progress(LoadEvent(LoadPhase.DISCOVERING, "looking for workers on the network"))
    ranges = options.layer_ranges
    wanted = None if ranges is None or options.only or options.exclude else len(ranges)
    found = await discover(
        options.workers,
        channels=channels,
        insecure=options.insecure_workers,
        mdns=options.discover,
        timeout_s=options.discovery_timeout_s,
        wanted=wanted,
        telemetry=False,
    )
    found = _without_serving(_only_wanted(found, options))
    _tell_left_out(found.left_out, options, on_progress)
    return found


def _tell_left_out(left_out: Sequence[LeftOutWorker], options: MeshOptions, on_progress: OnProgress) -> None:
    """Who was asked for by address may not be left out: then the reason is raised."""
    for worker in left_out:
        if worker.address in options.workers:
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


def _without_serving(found: Discovery) -> Discovery:
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
        if worker.is_serving
    )
    free = tuple(worker for worker in found.found if not worker.is_serving)
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
