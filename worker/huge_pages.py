# SPDX-License-Identifier: MIT
"""Asks the system for huge pages under the weights: a CPU decodes about a fifth faster when every token's walk through
them misses fewer address translations (docs/benchmarks.md).

Most Linux distributions give huge pages only to memory that asks for them, which llama.cpp's does not; glibc (2.35 and
later) asks in its stead, if a variable says so when the process starts. So the process starts once more.
"""

import os
import sys
from pathlib import Path

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_VARIABLE = "GLIBC_TUNABLES"
_TUNABLE = "glibc.malloc.hugetlb"


def ask_for_huge_pages() -> None:
    """Returns if there is nothing to ask for or it has been done, or refused by the user's own setting; else replaces
    this process by one with the same arguments. To be called before anything is opened or started.
    """
    tunables = os.environ.get(_VARIABLE, "")
    if _TUNABLE in tunables or not _must_ask():
        return
    setting = f"{_TUNABLE}=1"
    environment = {**os.environ, _VARIABLE: f"{tunables}:{setting}" if tunables else setting}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _must_ask() -> bool:
    """Whether the system gives huge pages to those that ask, and to nobody else."""
    try:
        return "[madvise]" in _MODE.read_text(encoding="ascii")
    except OSError:
        return False
