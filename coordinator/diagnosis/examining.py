# SPDX-License-Identifier: MIT
"""Looks at everything that can be told from here, one thing after the other."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from coordinator.control import WorkerClient
from coordinator.diagnosis.devices import ListingError, device_findings, listed_devices
from coordinator.diagnosis.finding import Finding, Verdict
from coordinator.diagnosis.graphics import graphics_cards, unused_cards
from coordinator.diagnosis.multicast import multicast_finding
from coordinator.diagnosis.reaching import opening_of, reaching_findings
from coordinator.discovery import discover
from coordinator.errors import CaravanError, IdentityError, WorkerLostError
from coordinator.membership import own_channels, strangers_text
from coordinator.telemetry import figures_text
from coordinator.workers import FoundWorker, LeftOutWorker
from native import LibraryMismatchError, versions
from protos.cache_folder import cache_folder
from protos.channels import Channels
from protos.cluster import cluster_path
from protos.sizes import size

_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LITTLE_DISK_BYTES = 1 << 30
_PING_BYTES = 64


async def diagnose(addresses: Sequence[str], *, timeout_s: float, insecure: bool = False) -> list[Finding]:
    """Everything that can be told from here.

    Args:
        addresses: ``host:port`` of workers to ask beside those found by mDNS.
        timeout_s: How long to look for those; 0: not at all.
        insecure: As with `discover`.
    """
    try:
        engine = [_engine()]
    except LibraryMismatchError as error:
        return [Finding("engine", Verdict.BAD, str(error), "install the version named, with pip")]
    return [
        *engine,
        *await _devices(),
        *_huge_pages(),
        _cache(),
        *([await asyncio.to_thread(multicast_finding)] if timeout_s > 0 else []),
        *await _of_cluster(addresses, timeout_s, insecure=insecure),
    ]


async def _devices() -> list[Finding]:
    try:
        listing = await listed_devices()
    except ListingError as error:
        remedy = "see whether that driver works; `caravan worker --device CPU` does without it"
        return [Finding("devices", Verdict.BAD, str(error), remedy)]
    return [*device_findings(listing.devices), *unused_cards(listing, graphics_cards())]


def _engine() -> Finding:
    engine = versions()
    text = f"llama-cpp-python {engine.llama_cpp_python}, llama.cpp {engine.llama_cpp}, ggml {engine.ggml}"
    return Finding("engine", Verdict.GOOD, text)


def _huge_pages() -> list[Finding]:
    try:
        mode = _HUGE_PAGES.read_text(encoding="ascii")
    except OSError:
        return []
    if "[never]" not in mode:
        return [Finding("huge pages", Verdict.GOOD, "to be had, so a CPU worker's weights lie in them")]
    return [
        Finding(
            "huge pages",
            Verdict.NOTE,
            "switched off, which costs a CPU worker about a fifth of its decode speed",
            f"as root: echo madvise > {_HUGE_PAGES}",
        )
    ]


def _cache() -> Finding:
    folder = cache_folder()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free_bytes = shutil.disk_usage(place).free
    if not place.is_dir() or not os.access(place, os.W_OK):
        remedy = "name another folder with CARAVAN_CACHE, or mend its rights"
        return Finding("cache", Verdict.BAD, f"{folder} cannot be written", remedy)
    if free_bytes < _LITTLE_DISK_BYTES:
        return Finding("cache", Verdict.NOTE, f"{folder}: {size(free_bytes)} free", "make room on that disk")
    return Finding("cache", Verdict.GOOD, f"{folder}, {size(free_bytes)} free")


async def _of_cluster(addresses: Sequence[str], timeout_s: float, *, insecure: bool) -> list[Finding]:
    """Of which cluster this machine is, and who is there for it."""
    try:
        channels = own_channels(insecure=insecure)
    except IdentityError as error:
        return [Finding("cluster", Verdict.BAD, str(error), "nothing beyond this computer works without")]
    if channels.is_secure:
        own = Finding("cluster", Verdict.GOOD, f"a member of {channels.fingerprint} ({cluster_path()})")
    else:
        own = Finding(
            "cluster",
            Verdict.NOTE,
            "a member of none, so only workers of this computer take part",
            "`caravan worker` makes one, `caravan cluster join` joins one",
        )
    return [own, *await _network(addresses, channels, timeout_s, insecure=insecure)]


async def _network(addresses: Sequence[str], channels: Channels, timeout_s: float, *, insecure: bool) -> list[Finding]:
    try:
        seen = await discover(addresses, channels=channels, insecure=insecure, mdns=timeout_s > 0, timeout_s=timeout_s)
    except (CaravanError, OSError) as error:
        return [
            Finding(
                "network", Verdict.BAD, f"workers cannot be looked for: {error}", "name them with --worker HOST:PORT"
            )
        ]
    findings = [await _worker(worker, channels) for worker in seen.found]
    findings += await reaching_findings(seen.found, channels)
    findings += [_left_out(worker) for worker in seen.left_out]
    if seen.n_strangers:
        text = strangers_text(seen.n_strangers, channels)
        findings.append(Finding("strangers", Verdict.NOTE, text, "`caravan cluster show` there tells which it is in"))
    if findings:
        return findings
    where = "by mDNS" if timeout_s > 0 else "at the addresses given"
    return [
        Finding(
            "network",
            Verdict.NOTE,
            f"no worker was found {where}",
            "start `caravan worker` here or on another computer; where mDNS does not pass (another subnet, some Wi-Fi, "
            "a firewall on UDP port 5353), name it with --worker HOST:PORT",
        )
    ]


def _left_out(worker: LeftOutWorker) -> Finding:
    remedy = f"look at the worker at {worker.address}"
    if isinstance(worker.error, WorkerLostError):
        host = worker.address.rpartition(":")[0]
        remedy = f"is it running there? If it is, {opening_of(host, worker.address)}"
    return Finding(worker.name, Verdict.BAD, worker.reason, remedy)


async def _worker(worker: FoundWorker, channels: Channels) -> Finding:
    client = WorkerClient(worker.address, channels, worker.name)
    try:
        await client.echo(_PING_BYTES)  # connects
        round_trip_s = await client.echo(_PING_BYTES)
    except CaravanError as error:
        return Finding(worker.name, Verdict.BAD, str(error), opening_of(worker.host_name, worker.address))
    finally:
        await client.close()
    cards = "; ".join(f"{card.device}: {', '.join(told)}" for card in worker.telemetry if (told := figures_text(card)))
    text = f"at {worker.address}, on {worker.device.name}, {round_trip_s * 1000:.1f} ms there and back"
    return Finding(worker.name, Verdict.GOOD, f"{text}; {cards}" if cards else text)
