# SPDX-License-Identifier: MIT
"""Which start of which machine this is: what holds until the machine goes down, and on no other, is marked with it.

Used by worker and coordinator; any thread.
"""

import functools
import subprocess
from pathlib import Path

# Linux makes a new one at every start. Source: Documentation/admin-guide/sysctl/kernel.rst, "random".
_LINUX = Path("/proc/sys/kernel/random/boot_id")
# The same of macOS.
_MACOS = ("sysctl", "-n", "kern.bootsessionuuid")
_TIMEOUT_S = 5.0


@functools.cache
def boot_id() -> str:
    """Different after every start, and on every machine; empty where the system tells none."""
    try:
        return _LINUX.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        pass
    try:
        asked = subprocess.run(_MACOS, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip()
