# SPDX-License-Identifier: MIT
"""How many processes the system has killed for want of memory: it does not say whom it killed, but it counts.

Sources: Linux' Documentation/admin-guide/cgroup-v2.rst ("memory.events"), cgroup-v1/memory.rst ("memory.oom_control"),
and `oom_kill` in /proc/vmstat.
"""

from pathlib import Path

_OWN_GROUPS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")
_MACHINE = Path("/proc/vmstat")
_NAME = "oom_kill"


def n_memory_kills() -> int | None:
    """Among the processes of this one's control group, which its children belong to, else of the machine; None: this
    system does not tell."""
    for path in (*_of_own_group(), _MACHINE):
        count = _count_in(path)
        if count is not None:
            return count
    return None


def _of_own_group() -> list[Path]:
    """Where its count may be, whichever version of control groups there is."""
    try:
        groups = [line.split(":", 2) for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    paths = []
    for _, controllers, path in groups:
        if controllers == "":
            paths.append(_ROOT / path.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            paths.append(_ROOT / "memory" / path.lstrip("/") / "memory.oom_control")
    return paths


def _count_in(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [_NAME]), None)
    except (OSError, ValueError, IndexError):
        return None
