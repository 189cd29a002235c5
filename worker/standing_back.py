# SPDX-License-Identifier: MIT
"""Work that takes what processors have left: one thread's, for a while."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

# In the units of nice(2).
_LESS_URGENT = 10


@contextlib.contextmanager
def standing_back() -> Iterator[None]:
    """While this lasts, others come before this thread. Threads that it starts meanwhile stay like that, and where the
    user may not raise a priority so does this one.
    """
    # Elsewhere it would be the whole process. Source: setpriority(2), "C library/kernel differences".
    if sys.platform != "linux":
        yield
        return
    thread = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, thread)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, min(before + _LESS_URGENT, 19))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, before)
