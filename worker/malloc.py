# SPDX-License-Identifier: MIT
"""Gives freed memory back to the system. Called on the loading thread, when a stage was loaded or dropped.

Once a buffer was freed, glibc takes others up to its size (32 MiB at most) from heaps of its own, one per thread, and
returns those late or never: a worker that had served and dropped some stages of 120 MiB kept 29 MiB of them.
"""

import ctypes
import sys


def trim() -> None:
    """Does nothing where the C library has no such call."""
    if _malloc_trim is not None:
        _malloc_trim(0)


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
