# SPDX-License-Identifier: MIT
"""How a command ends: exit codes, and errors as one sentence on stderr. For `root` and commands."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from enum import IntEnum

import click

from coordinator.cli.foreign_flags import hint
from coordinator.errors import CaravanError, NoWorkersError, WorkerError

_MODELS = (
    "It is a GGUF file or its https:// address, hf:OWNER/REPO[:QUANT], ollama:NAME, or demo, the small model that "
    "ships inside."
)


class ExitCode(IntEnum):
    """What the shell sees."""

    OK = 0
    USER_ERROR = 1
    USAGE = 2
    START_FAILED = 3
    DISAGREES = 4
    """Of `verify`: a worker computes something else than llama.cpp does."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it: 128 and the signal's number."""
    TERMINATED = 143


class StartError(Exception):
    """Something could not be started; the message is a sentence with what to do."""


class UserError(Exception):
    """The user can mend it; the message is a sentence with what to do."""


class StoppedError(KeyboardInterrupt):
    """A signal asked the command to stop. As a KeyboardInterrupt it passes error handlers and asyncio.

    Args:
        signal_number: which one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.INTERRUPTED if self.signal_number == signal.SIGINT else ExitCode.TERMINATED


def exit_code_of(error: Exception) -> ExitCode:
    """The exit code for an error that ended a command."""
    if isinstance(error, click.UsageError):
        return ExitCode.USAGE
    if isinstance(error, StartError | WorkerError | NoWorkersError):
        return ExitCode.START_FAILED
    return ExitCode.USER_ERROR


def sentence_of(error: Exception, typed: Sequence[str]) -> str | None:
    """What to tell the user who typed this; None if nobody meant this error for one."""
    if isinstance(error, CaravanError):
        return error.message
    if isinstance(error, click.NoSuchOption) and (sentence := hint(error, typed)):
        return sentence
    if isinstance(error, click.MissingParameter) and error.param is not None and error.param.name == "model":
        return f"{error.format_message()} {_MODELS}"
    if isinstance(error, click.ClickException):
        return error.format_message()
    return str(error) if isinstance(error, StartError | UserError) else None
