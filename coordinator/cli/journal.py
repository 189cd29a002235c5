# SPDX-License-Identifier: MIT
"""The options of `caravan serve` for its journal, and what is done with it from its claim to its end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from coordinator.cli.console import say
from coordinator.cli.exits import StartError
from coordinator.cli.options import option, packed_options
from coordinator.http.answers import Answers
from coordinator.http.server import ListenAddress
from coordinator.journal.claim import JournalError, claimed, read_journal
from coordinator.journal.journal import Journal, Sync, new_salt
from coordinator.mesh import AsyncMesh
from protos.durations import parse_duration

Command = TypeVar("Command", bound=Callable[..., Any])

_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """As they were typed; `journal` None: there is none."""

    journal: str | None
    journal_sync: str
    journal_keep: float
    reconnect_grace: float

    def path(self, listen: ListenAddress) -> Path | None:
        """Where it is: by itself, one for each port, so that the same command finds its own again."""
        if self.journal is None or self.journal == _AUTO:
            folder = platformdirs.user_state_path("caravan", appauthor=False)
            return None if self.journal is None else Path(folder) / "journal" / f"serve-{listen.port}.journal"
        return Path(self.journal).expanduser().absolute()


class _Duration(click.ParamType[float]):
    name = "TIME"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def journal_options(command: Command) -> Command:
    """Adds the options of JournalOptions; the command gets them as `journal`."""

    options = [
        option("--journal", metavar="FILE|auto",
               help="Keep a journal of requests and answers there, so that answers can be had again by their id, also"
               " after this process died and was started again. It holds prompts. auto: a file of this user's, by port."
               "  [default: none]", show_default=False),
        option("--journal-sync", type=click.Choice([each.value for each in Sync]), default=Sync.SECOND.value,
               help="How often the journal is made to reach the disk itself. It survives this process without."),
        option("--journal-keep", type=_Duration(), default="10m",
               help="How long an answer that has ended can be had again, and one that went on after a restart waits for"
               " somebody."),
        option("--reconnect-grace", type=_Duration(), default="0",
               help="With a journal, how long a request goes on whose client hung up, so that it may come back. 0: it"
               " ends at once."),
    ]  # fmt: skip
    return packed_options(options, JournalOptions, "journal", command)  # type: ignore[return-value]


@contextlib.contextmanager
def claimed_journal(path: Path | None) -> Iterator[None]:
    """While this lasts nobody else writes there; nothing without a path.

    Raises:
        StartError: Somebody does, or nothing can be written.
    """
    if path is None:
        yield
        return
    try:
        with claimed(path):
            yield
    except JournalError as error:
        raise StartError(str(error)) from None


@contextlib.asynccontextmanager
async def kept_answers(path: Path | None, options: JournalOptions, mesh: AsyncMesh) -> AsyncIterator[Answers | None]:
    """Answers that are kept while this lasts, those of the journal among them, which go on; None without a path.

    Raises:
        StartError: The journal cannot be read.
    """
    if path is None:
        yield None
        return
    try:
        found = read_journal(path, mesh.model_identity, say)
    except JournalError as error:
        raise StartError(str(error)) from None
    journal = Journal(path, mesh.model_identity, found.salt or new_salt(), sync=Sync(options.journal_sync), warn=say)
    answers = Answers(journal, options.journal_keep, options.reconnect_grace)
    n_going_on = answers.go_on(mesh, list(found.answers.values()))
    if n_going_on:
        what = "answer goes" if n_going_on == 1 else "answers go"
        say(f"{n_going_on} {what} on that this server had begun before: GET them by their ids")
    try:
        yield answers
    finally:
        await answers.close()
        journal.close()
