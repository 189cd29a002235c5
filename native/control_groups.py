# SPDX-License-Identifier: MIT
"""What Linux lets this process have: containers, and services with limits, are control groups, whose limits neither
/proc/meminfo nor the number of processors shows.

Sources: the kernel's documentation, "Control Group v2" and "Memory Resource Controller" (v1); proc(5) on mountinfo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_Limit = TypeVar("_Limit")

_NO_LIMIT = 1 << 60
"""Version 1 says so much, or more, where there is none."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Bytes of memory that may still be taken, and the most that all in the group may have."""

    free_bytes: int
    total_bytes: int


def memory_limit(process: Path = Path("/proc/self")) -> MemoryLimit | None:
    """What this process's group and those around it leave it; None: nothing limits it, or the system has no groups.

    Args:
        process: Its folder of /proc.
    """
    limits = [*_limits(process, "memory", _memory_of_v1), *_limits(process, "", _memory_of_v2)]
    if not limits:
        return None
    return MemoryLimit(min(limit.free_bytes for limit in limits), min(limit.total_bytes for limit in limits))


def processor_limit(process: Path = Path("/proc/self")) -> float | None:
    """How many processors' time it is given; None: there is no limit.

    Args:
        process: Its folder of /proc.
    """
    limits = [*_limits(process, "cpu", _processors_of_v1), *_limits(process, "", _processors_of_v2)]
    return min(limits, default=None)


def _limits(process: Path, controller: str, read: Callable[[Path], _Limit | None]) -> Iterator[_Limit]:
    """Those of the process's own group of a hierarchy, and of each around it that is seen from here.

    Args:
        controller: Whose hierarchy, of version 1; empty for version 2, which has one for all.
    """
    place = _place(process, controller)
    if place is None:
        return
    mount, folder = place
    while True:
        try:
            limit = read(folder)
        except (OSError, ValueError):
            limit = None  # the root has no limits, and who may not read it has none that it could know of
        if limit is not None:
            yield limit
        if folder == mount:
            return
        folder = folder.parent


def _place(process: Path, controller: str) -> tuple[Path, Path] | None:
    """Where a hierarchy is mounted, and the folder of the process's group there."""
    try:
        groups = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    paths = {path for _, names, path in (line.split(":", 2) for line in groups) if controller in names.split(",")}
    for line in mounts:
        about, _, filesystem = line.partition(" - ")
        root, mount = about.split()[3:5]
        kind, _, options = filesystem.split(maxsplit=2)
        if kind != ("cgroup" if controller else "cgroup2") or (controller and controller not in options.split(",")):
            continue
        for path in paths:
            inside = os.path.relpath(path, root)
            # A container may be shown its own group as the root, and told the path that it has outside.
            is_shown = not inside.startswith("..")
            return Path(mount), Path(mount, inside) if is_shown else Path(mount)
    return None


def _memory_of_v2(folder: Path) -> MemoryLimit | None:
    # Who is above the second is not killed, but held up until it is below.
    limits = [(folder / name).read_text().strip() for name in ("memory.max", "memory.high")]
    limit_bytes = min((int(limit) for limit in limits if limit != "max"), default=None)
    return None if limit_bytes is None else _memory_left(folder, limit_bytes, "memory.current", "inactive_file")


def _memory_of_v1(folder: Path) -> MemoryLimit | None:
    limit_bytes = int((folder / "memory.limit_in_bytes").read_text())
    if limit_bytes >= _NO_LIMIT:
        return None
    return _memory_left(folder, limit_bytes, "memory.usage_in_bytes", "total_inactive_file")


def _memory_left(folder: Path, limit_bytes: int, usage: str, reclaimable: str) -> MemoryLimit:
    """Files that were read and are not in use count as used there, and make way when memory is wanted."""
    used_bytes = int((folder / usage).read_text())
    counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    free_bytes = limit_bytes - used_bytes + int(counts.get(reclaimable, 0))
    return MemoryLimit(max(0, min(free_bytes, limit_bytes)), limit_bytes)


def _processors_of_v2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _processors_of_v1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text())
    return None if quota < 0 else quota / int((folder / "cpu.cfs_period_us").read_text())
