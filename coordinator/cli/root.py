# SPDX-License-Identifier: MIT
"""The command `caravan` itself: its sub-commands, and what becomes of their errors. `main` is the entry."""

from __future__ import annotations

import importlib
import io
import itertools
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from coordinator.cli.config import read_config
from coordinator.cli.console import ReaderGoneError, say
from coordinator.cli.exits import ExitCode, StoppedError, exit_code_of, sentence_of
from coordinator.cli.settings import Settings
from protos.options import name_variables

_COMMANDS = {
    "bench": "Measure how fast a model is over a line of workers, and what limits it.",
    "cache": "See, check and prune the weights that this machine keeps.",
    "chat": "Talk with a model, over a line of workers.",
    "cluster": "See and change which computers are one cluster.",
    "completion": "Print a script that has a shell complete commands and options.",
    "demo": "Print a story through two worker processes on this machine.",
    "doctor": "Look for what is wrong on this machine and between it and the workers.",
    "embed": "Print what a model makes of texts, as vectors.",
    "keys": "Make and remove the API keys of caravan serve.",
    "nodes": "List the workers on the network.",
    "plan": "Show which worker would hold which layers of a model; loads nothing.",
    "run": "Print what a model says to a prompt.",
    "serve": "Serve a model over OpenAI's HTTP API.",
    "top": "Show what a served model's line does, live, and what limits its speed.",
    "verify": "Compare a line with llama.cpp alone, and name the worker that disagrees.",
    "worker": "Let this machine hold layers.",
}


class _Commands(click.Group):
    """Imports a command's module when it is called, so that each starts without what the others need; and gives it
    its defaults from the configuration file."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"coordinator.cli.{cmd_name}").command
        name_variables(command, f"CARAVAN_{cmd_name.upper()}")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        typed = itertools.takewhile("--".__ne__, rest)
        # Help is to be had with a wrong file too.
        if name is not None and not ctx.resilient_parsing and set(ctx.help_option_names).isdisjoint(typed):
            config = read_config(ctx.params["config"], ctx)
            ctx.ensure_object(Settings).config = config
            ctx.default_map = {name: config.defaults_for(name, ctx)} if config else None
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(
    "caravan",
    cls=_Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 something to mend that a sentence tells, 2 wrong usage, 3 something could not be "
    "started or reached, 4 of verify: a worker disagrees, 130 Ctrl-C, 143 SIGTERM.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="CARAVAN_CONFIG",
    show_envvar=True,
    help="The configuration file (TOML).  [default: config.toml in the user's folder for such; caravan doctor tells]",
)
@click.version_option(package_name="llama-caravan", prog_name="caravan")
def root(config: Path | None) -> None:
    """Several computers as one machine for one language model.

    \b
    Try it:   caravan demo
    Use it:   caravan worker                              on the first computer; it prints a code
              caravan worker --join CODE                  on every other
              caravan run model.gguf "Once upon a time"   on one of them

    What an option is set to: the command line says it, else its environment variable, else the configuration file
    (docs/config.md), where the command's table comes before the top.
    """


def main(args: list[str] | None = None) -> NoReturn:
    """Runs a command and exits with its code (`exits.ExitCode`)."""
    settings = Settings()
    sys.exit(_run(sys.argv[1:] if args is None else args, settings))


def _run(args: list[str], settings: Settings) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model may say what the terminal's encoding cannot
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("native.llama_cpp").setLevel(logging.CRITICAL)
    try:
        code = root.main(args, prog_name="caravan", standalone_mode=False, obj=settings)
    except StoppedError as stopped:
        return stopped.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # Click takes a StoppedError for the KeyboardInterrupt that it also is.
        return error.__cause__.exit_code if isinstance(error.__cause__, StoppedError) else ExitCode.INTERRUPTED
    except ReaderGoneError:
        _forget_stdout()
        return ExitCode.OK
    except Exception as error:  # the outermost place: every error becomes an exit code
        return _fail(error, settings, args)
    return code if isinstance(code, int) else ExitCode.OK


def _fail(error: Exception, settings: Settings, typed: list[str]) -> int:
    if settings.debug:
        traceback.print_exception(error)
        return exit_code_of(error)
    sentence = sentence_of(error, typed)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        say(error.ctx.get_usage())
    if sentence is None:
        sentence = f"{type(error).__name__}: {error}; this is a fault in caravan, --debug shows where"
    say(f"caravan: {sentence}")
    return exit_code_of(error)


def _forget_stdout() -> None:
    """What is still buffered would fail again when Python flushes it at exit; it goes nowhere instead."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
