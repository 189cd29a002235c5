# SPDX-License-Identifier: MIT
"""What is well and what is not on this machine and in its network, each finding with what to do: `caravan doctor`.

Looks and asks; starts nothing and changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from coordinator.cache import cache_folder
from coordinator.control import WorkerClient
from coordinator.discovery import discover
from coordinator.errors import CaravanError
from coordinator.plan import size
from coordinator.workers import FoundWorker
from native import Device, DeviceKind, LibraryMismatchError, devices, versions

_DRM = Path("/sys/class/drm")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LITTLE_DISK_BYTES = 1 << 30
_PING_BYTES = 64

_VENDORS = {
    "0x10de": ("an NVIDIA card", "-DGGML_CUDA=on", "the CUDA toolkit"),
    "0x1002": ("an AMD card", "-DGGML_VULKAN=on", "the Vulkan SDK (or ROCm, with -DGGML_HIP=on)"),
    "0x8086": ("an Intel graphics device", "-DGGML_VULKAN=on", "the Vulkan SDK"),
}
"""By PCI vendor: what it is, how llama.cpp is built for it, and what that needs."""


class Verdict(str, Enum):
    """How a finding is to be taken."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        remedy: What to do; empty where there is nothing to be done.
    """

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


async def diagnose(addresses: Sequence[str], *, timeout_s: float) -> list[Finding]:
    """Everything that can be told from here.

    Args:
        addresses: ``host:port`` of workers to ask beside those found by mDNS.
        timeout_s: How long to look for those; 0: not at all.
    """
    try:
        engine = [_engine()]
    except LibraryMismatchError as error:
        return [Finding("engine", Verdict.BAD, str(error), "install the version named, with pip")]
    return [
        *engine,
        *device_findings(devices(), graphics_vendors()),
        *_huge_pages(),
        _cache(),
        *await _network(addresses, timeout_s),
    ]


def device_findings(found: Sequence[Device], vendors: Iterable[str]) -> list[Finding]:
    """The devices that llama.cpp can use, and the graphics cards that it cannot.

    Args:
        found: By llama.cpp.
        vendors: PCI vendors of this machine's graphics cards, "0x10de" and the like.
    """
    findings = [
        Finding(
            device.name,
            Verdict.GOOD,
            f"{device.description}, {size(device.free_bytes)} free of {size(device.total_bytes)}",
        )
        for device in found
    ]
    if any(device.kind in (DeviceKind.GPU, DeviceKind.INTEGRATED_GPU) for device in found):
        return findings
    for vendor in sorted(set(vendors) & _VENDORS.keys()):
        what, option, needs = _VENDORS[vendor]
        findings.append(
            Finding(
                "graphics",
                Verdict.BAD,
                f"there is {what}, and the installed llama.cpp was built without it",
                f"install {needs}, then: CMAKE_ARGS={option} {sys.executable} -m pip install --force-reinstall "
                "--no-deps --no-cache-dir --no-binary llama-cpp-python "
                f"llama-cpp-python=={versions().llama_cpp_python}",
            )
        )
    return findings


def graphics_vendors() -> set[str]:
    """PCI vendors of this machine's graphics cards, where the system tells (Linux)."""
    vendors = set()
    for file in _DRM.glob("card*/device/vendor"):
        with contextlib.suppress(OSError):
            vendors.add(file.read_text(encoding="ascii").strip())
    return vendors


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


async def _network(addresses: Sequence[str], timeout_s: float) -> list[Finding]:
    try:
        seen = await discover(addresses, mdns=timeout_s > 0, timeout_s=timeout_s)
    except (CaravanError, OSError) as error:
        return [
            Finding(
                "network", Verdict.BAD, f"workers cannot be looked for: {error}", "name them with --worker HOST:PORT"
            )
        ]
    findings = [await _worker(worker) for worker in seen.found]
    findings += [
        Finding(left_out.name, Verdict.BAD, left_out.reason, f"look at the worker at {left_out.address}")
        for left_out in seen.left_out
    ]
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


async def _worker(worker: FoundWorker) -> Finding:
    client = WorkerClient(worker.address, worker.name)
    try:
        await client.echo(_PING_BYTES)  # connects
        round_trip_s = await client.echo(_PING_BYTES)
    except CaravanError as error:
        return Finding(worker.name, Verdict.BAD, str(error), f"is the port of {worker.address} open in its firewall?")
    finally:
        await client.close()
    return Finding(
        worker.name,
        Verdict.GOOD,
        f"at {worker.address}, on {worker.device.name}, {round_trip_s * 1000:.1f} ms there and back",
    )
