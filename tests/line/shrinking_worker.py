# SPDX-License-Identifier: MIT
"""A worker, on a machine of its own as far as it says, that has as much free memory as a file says whenever it looks.

Run as a process by the tests of this folder: `python -m tests.line.shrinking_worker FILE ARGUMENTS-OF-A-WORKER`.
"""

import socket
import sys
from dataclasses import replace
from pathlib import Path

import native
from native import Device


def main() -> None:
    """A worker in every other respect."""
    free_bytes = Path(sys.argv.pop(1))
    find = native.find_device

    def find_device(name: str | None = None) -> Device:
        return replace(find(name), free_bytes=int(free_bytes.read_text(encoding="ascii")))

    native.find_device = find_device
    socket.gethostname = lambda: "den"
    from worker import cli

    cli.main()


if __name__ == "__main__":
    main()
