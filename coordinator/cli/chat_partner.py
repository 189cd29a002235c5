# SPDX-License-Identifier: MIT
"""Who answers in a chat, as the chat sees them: a line of this command's own (`chat_line`), or a server that runs
(`chat_server`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordinator.cli.options import SamplingOptions


@dataclass(frozen=True, slots=True)
class Ended:
    """How an answer ended.

    Attributes:
        was_stopped: By the person.
        is_cut: For want of tokens.
        speed: How much was read and written, and how fast, in a line.
        details: What else there is to know of that, a line each.
    """

    was_stopped: bool
    is_cut: bool
    speed: str
    details: tuple[str, ...] = ()


class Reply(Protocol):
    """An answer, which is asked for when it is entered: a context manager, within which it is iterated once.

    Raises (entered, and iterated):
        UserError: It cannot be given; the chat goes on.
        CaravanError: No other one can be given either.
    """

    def cancel(self) -> None:
        """No more of it, please: from a signal's handler, at any time, also before it is entered."""

    def __enter__(self) -> Iterator[str]: ...

    def __exit__(self, *_: object) -> None: ...

    def ended(self) -> Ended:
        """Once it has."""


class Partner(Protocol):
    """Who answers; ended by `close`."""

    @property
    def name(self) -> str:
        """What the model is called."""

    def reply(self, messages: Sequence[Mapping[str, str]], sampling: SamplingOptions) -> Reply:
        """An answer to these."""

    def change_model(self, model: str) -> None:
        """Another model answers from now on.

        Raises:
            UserError: It cannot; the one before does.
            CaravanError: Nor can that.
        """

    def about(self) -> str:
        """Who answers, for a person."""

    def close(self) -> None:
        """Ends what was started for it."""
