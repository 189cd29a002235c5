# SPDX-License-Identifier: MIT
"""What a person types in a chat: with a history and several lines on a terminal (prompt_toolkit), else line by line
from a pipe. The one module that knows prompt_toolkit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import platformdirs

from coordinator.cli.exits import StoppedError, UserError

_PROMPT = "> "
_CONTINUED = ". "

_GOES_ON = "\\"
"""At the end of a line: another one follows."""


class Interrupted(Exception):
    """Ctrl-C where nothing went on."""


class ChatInput(Protocol):
    """Where messages come from; `is_person`: from somebody who sees what comes of them."""

    is_person: bool

    def read(self) -> str | None:
        """The next message, or command; None: there are no more.

        Raises:
            Interrupted: Ctrl-C.
        """


def chat_input(commands: Sequence[str]) -> ChatInput:
    """The terminal where there is one; `commands`: what it completes."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _Terminal(commands)
    return _Pipe()


class _Pipe:
    """A message on each line of standard input."""

    is_person = False

    def read(self) -> str | None:
        lines: list[str] = []
        while True:
            raw = sys.stdin.buffer.readline()
            if not raw:
                return "\n".join(lines) if lines else None
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise UserError("standard input is not UTF-8 text: convert it first, for example with iconv") from None
            if not line.endswith(_GOES_ON):
                return "\n".join([*lines, line])
            lines.append(line.removesuffix(_GOES_ON))


class _Terminal:
    """Enter sends; Alt-Enter, a backslash before Enter, and what is pasted make more lines."""

    is_person = True

    def __init__(self, commands: Sequence[str]) -> None:
        # Imported where there is a terminal: a tenth of a second that no script waits.
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, History, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

        keys = KeyBindings()

        @keys.add("enter")
        def _send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.document.text_before_cursor.endswith(_GOES_ON):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def _break(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        path = _history_path()
        history: History = InMemoryHistory() if path is None else FileHistory(str(path))
        self._session: PromptSession[str] = PromptSession(
            _PROMPT,
            multiline=True,
            prompt_continuation=lambda _width, _number, _wraps: _CONTINUED,
            history=history,
            key_bindings=keys,
            completer=WordCompleter(list(commands), sentence=True),
            complete_while_typing=False,
        )

    def read(self) -> str | None:
        from prompt_toolkit.patch_stdout import patch_stdout

        try:
            with patch_stdout(raw=True):  # what becomes of the line meanwhile is told above the prompt
                return self._session.prompt()
        except StoppedError:
            raise  # a signal, where Ctrl-C is a key here
        except KeyboardInterrupt:
            raise Interrupted from None
        except EOFError:
            return None


def _history_path() -> Path | None:
    """A file that only this user reads; None where there can be none."""
    path = Path(platformdirs.user_state_path("caravan", appauthor=False)) / "chat-history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return None
    return path
