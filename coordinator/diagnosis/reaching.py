# SPDX-License-Identifier: MIT
"""Whether workers can be reached where it matters: by each other, which only they can tell, and on the port that takes
their weights. What is closed comes with the port and the machine whose firewall it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

from coordinator.control import WorkerClient
from coordinator.diagnosis.finding import Finding, Verdict
from coordinator.errors import CaravanError
from coordinator.workers import FoundWorker
from protos.channels import Channels
from protos.sizes import size

_CONNECT_S = 3.0
"""A LAN connects in milliseconds; a firewall that drops says nothing at all."""


async def reaching_findings(workers: Sequence[FoundWorker], channels: Channels) -> list[Finding]:
    """Links between each two of them, in both directions, and ports for weights that are closed."""
    ports = await asyncio.gather(*(_weights_port(worker) for worker in workers))
    # One at a time from each worker, so that none measures its own others.
    from_each = await asyncio.gather(*(_links_from(worker, workers, channels) for worker in workers))
    return [*itertools.chain(*ports), *itertools.chain(*from_each)]


def opening_of(host: str, address: str) -> str:
    """What to do where a machine does not let somebody in at ``host:port`` of a worker."""
    port = address.rpartition(":")[2]
    return (
        f"on {host} let TCP port {port} in through the firewall, for example `sudo ufw allow {port}/tcp`; `caravan "
        "worker --listen 0.0.0.0:PORT` there keeps to PORT for calls and the next one for weights"
    )


async def _links_from(worker: FoundWorker, workers: Sequence[FoundWorker], channels: Channels) -> list[Finding]:
    client = WorkerClient(worker.address, channels, worker.name)
    try:
        return [await _link(client, worker, other) for other in workers if other is not worker]
    finally:
        await client.close()


async def _link(client: WorkerClient, worker: FoundWorker, other: FoundWorker) -> Finding:
    subject = f"{worker.name} to {other.name}"
    try:
        link = await client.measure_link(other.address, other.name)
    except CaravanError as error:
        remedy = opening_of(other.host_name, other.address)
        return Finding(subject, Verdict.BAD, error.message, remedy)
    speed = f"{link.round_trip_s * 1000:.1f} ms there and back, {size(int(link.bytes_per_s))}/s"
    return Finding(subject, Verdict.GOOD, speed)


async def _weights_port(worker: FoundWorker) -> list[Finding]:
    """Only what is amiss."""
    if not worker.weights_port:
        return []
    host = worker.address.rpartition(":")[0].strip("[]")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, worker.weights_port), _CONNECT_S)
    except (OSError, asyncio.TimeoutError) as error:
        reason = getattr(error, "strerror", None) or "nobody answers"
        text = f"its port for weights, {host}:{worker.weights_port}, cannot be reached from here ({reason})"
        return [Finding(worker.name, Verdict.BAD, text, opening_of(worker.host_name, f"{host}:{worker.weights_port}"))]
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return []
