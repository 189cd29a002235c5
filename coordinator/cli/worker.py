# SPDX-License-Identifier: MIT
"""`caravan worker`: becomes the worker's own program, with all arguments passed through.

The coordinator does not import the worker; they meet in `protos`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import click

from coordinator.cli.config import PASSED_ON
from coordinator.cli.settings import Settings
from protos.options import TABLE_VARIABLE


@click.command(
    "worker",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def command(settings: Settings, args: tuple[str, ...]) -> int:
    """Let this machine hold layers."""
    os.environ.pop(TABLE_VARIABLE, None)
    if settings.config is not None and PASSED_ON in settings.config.tables:
        os.environ[TABLE_VARIABLE] = settings.config.tables[PASSED_ON].pack()
    program = [sys.executable, "-m", "worker", *args]
    if os.name != "nt":  # exec there returns to the shell while the new process still runs
        os.execv(sys.executable, program)
    return subprocess.call(program)
