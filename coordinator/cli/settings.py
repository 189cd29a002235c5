# SPDX-License-Identifier: MIT
"""What holds for every command: one object per process, made by `root`, filled by shared options."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """`debug`: tracebacks for errors, and everyone's log on stderr."""

    debug: bool = False


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Settings).debug = True
        logging.getLogger().setLevel(logging.DEBUG)
        logging.getLogger("native.llama_cpp").setLevel(logging.DEBUG)


def debug_option(command: Command) -> Command:
    """Adds `--debug`."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        show_envvar=True,
        help="Show tracebacks, and the log on stderr.",
    )(command)
