# SPDX-License-Identifier: MIT
"""Notices that the process that started this worker is gone, however it went."""

import os
import select
import threading
import time
from collections.abc import Callable

# Where the kernel cannot tell us: a worker may outlive its coordinator by this much.
_POLL_S = 1.0


def watch_parent(pid: int, on_gone: Callable[[], None]) -> None:
    """Calls `on_gone` once, on a thread of its own, when process `pid` has ended."""
    threading.Thread(target=_watch, args=(pid, on_gone), name="parent-watch", daemon=True).start()


def _watch(pid: int, on_gone: Callable[[], None]) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        on_gone()
        return
    except (AttributeError, OSError):
        _poll(pid)
    else:
        # Readable when the process ends, a zombie included.
        select.select([descriptor], [], [])
        os.close(descriptor)
    on_gone()


def _poll(pid: int) -> None:
    is_child = os.getppid() == pid
    while _is_alive(pid) and (not is_child or os.getppid() == pid):
        time.sleep(_POLL_S)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
