# SPDX-License-Identifier: MIT
"""`caravan cache`: becomes the worker's program for its store, with all arguments passed through."""

from __future__ import annotations

import os
import subprocess
import sys

import click


@click.command(
    "cache",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def command(args: tuple[str, ...]) -> int:
    """See, check and prune the weights that this machine keeps."""
    program = [sys.executable, "-m", "worker.cache", *args]
    if os.name != "nt":  # exec there returns to the shell while the new process still runs
        os.execv(sys.executable, program)
    return subprocess.call(program)
