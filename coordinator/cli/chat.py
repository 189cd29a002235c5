# SPDX-License-Identifier: MIT
"""`caravan chat MODEL`: a conversation over a line of workers, on a terminal or line by line from a pipe; with
`--server` one with a server that runs.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import click
from click.core import ParameterSource

from coordinator.admission import RANDOM_SEED
from coordinator.cli.chat_commands import COMMANDS, Leave, carry_out
from coordinator.cli.chat_input import ChatInput, Interrupted, chat_input
from coordinator.cli.chat_line import LinePartner
from coordinator.cli.chat_partner import Partner
from coordinator.cli.chat_screen import Screen
from coordinator.cli.chat_server import ServerPartner
from coordinator.cli.chat_session import ChatSession
from coordinator.cli.exits import ExitCode, UserError
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import open_arguments
from coordinator.cli.options import (
    LineOptions,
    SamplingOptions,
    line_options,
    local_option,
    model_argument,
    option,
    sampling_options,
)
from coordinator.cli.server_options import api_key_file_option, key_in, server_address
from coordinator.cli.settings import debug_option, source_of

_MOST_INTERRUPTS = 2
"""Ctrl-C so often in a row leaves."""

_OF_A_LINE = {"local", "joined", *(each.name for each in fields(LineOptions))}
_OF_A_SERVER = {"api_key", "api_key_file"}


@click.command("chat")
@model_argument(required=False)
@option(
    "--server",
    metavar="URL",
    help="Talk with a server that runs instead of opening a line: caravan serve, or any other with OpenAI's API."
    " MODEL is then one of its models; left out, its first.",
)
@option("--api-key", metavar="KEY", show_default=False, help="With --server: an API key, where it wants one.")
@api_key_file_option
@option("--system", metavar="TEXT", help="What the model is told before all else.")
@option("--stats", is_flag=True, help="After each answer, tell tokens per second and the time to the first token.")
@local_option
@line_options
@sampling_options
@debug_option
def command(
    model: str | None,
    server: str | None,
    api_key: str | None,
    api_key_file: Path | None,
    system: str | None,
    stats: bool,
    local: int,
    line: LineOptions,
    sampling: SamplingOptions,
) -> int:
    """Talk with MODEL.

    MODEL is a GGUF file or its https:// address, hf:OWNER/REPO[:QUANT], ollama:NAME, or "demo". Workers are found as by
    `caravan run`. /help tells the commands. Where standard input is no terminal, each of its lines is a message, and a
    backslash at its end goes on in the next.

    \b
    caravan chat model.gguf
    echo "Why is the sky blue?" | caravan chat model.gguf --temperature 0
    caravan chat --server http://127.0.0.1:8080
    """
    _check_together(server)
    if source_of("seed") is ParameterSource.DEFAULT:
        # Each answer has one of its own, or one given anew would be the same.
        sampling = replace(sampling, params=replace(sampling.params, seed=RANDOM_SEED))
    screen = Screen()

    def partner() -> Partner:
        if server is not None:
            return ServerPartner(server_address("--server", server, api_key or key_in(api_key_file)), model, screen)
        if model is None:
            raise click.MissingParameter(param=_parameter("model"), param_hint="'MODEL'")
        return LinePartner(model, open_arguments(line) | {"local_workers": local}, screen)

    with interruptible(), ChatSession(partner(), sampling, screen, tells_stats=stats) as chat:
        chat.conversation.system = system
        typed = chat_input([name for each in COMMANDS for name in each.names])
        if typed.is_person:
            screen.tell("/help tells the commands; Ctrl-D leaves", style="dim")
        return _talk(chat, typed)


def _check_together(server: str | None) -> None:
    """Raises click.UsageError for an option that was typed out and has nothing to say beside, or without, --server."""
    for name in sorted(_OF_A_SERVER if server is None else _OF_A_LINE):
        if source_of(name) is ParameterSource.COMMANDLINE:
            option = _parameter(name).opts[0]
            if server is None:
                raise click.UsageError(f"{option} is for a server that runs: name it with --server URL")
            raise click.UsageError(f"{option} is for a line that this command opens: leave it out, or --server")


def _parameter(name: str) -> click.Parameter:
    return next(each for each in click.get_current_context().command.params if each.name == name)


def _talk(chat: ChatSession, typed: ChatInput) -> ExitCode:
    """Until the person leaves or the pipe ends; what cannot be done is told, and the chat goes on."""
    n_interrupts, was_refused = 0, False
    while True:
        try:
            text = typed.read()
        except Interrupted:
            n_interrupts += 1
            if n_interrupts == _MOST_INTERRUPTS:
                return ExitCode.INTERRUPTED
            chat.screen.tell("Ctrl-C again leaves", style="dim")
            continue
        if text is None:
            break
        n_interrupts = 0
        try:
            n_interrupts = _take(chat, text)
        except Leave:
            break
        except UserError as error:
            was_refused = True
            chat.screen.tell(f"caravan: {error}")
    return ExitCode.USER_ERROR if was_refused and not typed.is_person else ExitCode.OK


def _take(chat: ChatSession, text: str) -> int:
    """A message or a command; how often Ctrl-C was pressed meanwhile."""
    chat.was_stopped = False
    if text.startswith("/"):
        carry_out(chat, text)
    elif text.strip():
        chat.say(text)
    return int(chat.was_stopped)
