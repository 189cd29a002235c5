# SPDX-License-Identifier: MIT
"""Where things are said: messages on stderr, in colour only on a terminal; data on stdout, as it is."""

from __future__ import annotations

import sys

from rich.console import Console


class ReaderGoneError(Exception):
    """Who read stdout has left (`| head`). No fault: the command ends in order, with nothing to tell."""


stderr = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(message: str, style: str | None = None) -> None:
    """A line for the person, on stderr."""
    stderr.print(message, style=style)


def emit(text: str) -> None:
    """Data on stdout, at once and unchanged.

    Raises:
        ReaderGoneError: nobody reads it any more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderGoneError from None
