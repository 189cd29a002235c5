# SPDX-License-Identifier: MIT
"""What one input may take of this process: memory in proportion to its size, and a few seconds. Linux."""

from __future__ import annotations

import contextlib
import gc
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Beside as much as the input has: allocators round up, and an interpreter has buffers and caches.
ALLOWANCE_BYTES = 16 << 20
SECONDS = 5
# Beyond what the process has when it begins: an allocation of claimed bytes ends in an error that is seen.
_ADDRESS_SPACE_BYTES = 4 << 30

_MEMORY_FOLDER = Path("/dev/shm")
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class TooMuchMemoryError(Exception):
    """An input made the process grow by more than it may."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder, in memory where the system has files there; gone in the end, however those who used it ended."""
    with tempfile.TemporaryDirectory(dir=_MEMORY_FOLDER if _MEMORY_FOLDER.is_dir() else None) as folder:
        yield Path(folder)


def limit_address_space() -> None:
    """For good, for this process and its children."""
    limit = _peaks()[1] + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@contextlib.contextmanager
def bounded(n_bytes: int, allowance_bytes: int = ALLOWANCE_BYTES) -> Iterator[None]:
    """Around the use of an input of that size.

    Raises:
        TooMuchMemoryError: at the end.
    """
    _CLEAR.write_text(_RESET_PEAK)
    before = _peaks()
    yield
    after = _peaks()
    for what, start, end in zip(("resident", "address space"), before, after, strict=True):
        if end - start > n_bytes + allowance_bytes:
            gc.collect()
            raise TooMuchMemoryError(f"{what}: {end - start:,} bytes more for an input of {n_bytes:,}")


def _peaks() -> tuple[int, int]:
    """Bytes: the largest resident size since it was reset, and the largest address space ever."""
    values = {}
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmHWM", "VmPeak"):
            values[name] = int(value.split()[0]) << 10
    return values["VmHWM"], values["VmPeak"]
