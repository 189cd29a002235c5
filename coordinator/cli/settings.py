# SPDX-License-Identifier: MIT
"""What holds for every command: one object per process, made by `root`, filled by shared options."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from coordinator.cli.config import Config

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """`debug`: tracebacks for errors, and everyone's log on stderr. `config`: the configuration file in force."""

    debug: bool = False
    config: Config | None = None


def _set_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Settings).debug = True
        logging.getLogger().setLevel(logging.DEBUG)
        logging.getLogger("native.llama_cpp").setLevel(logging.DEBUG)


def source_of(option: str) -> ParameterSource | None:
    """Where the running command's option, called as click calls it, has its value from."""
    return click.get_current_context().get_parameter_source(option)


def debug_option(command: Command) -> Command:
    """Adds `--debug`."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_set_debug,
        help="Show tracebacks, and the log on stderr.",
    )(command)
