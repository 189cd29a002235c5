# SPDX-License-Identifier: MIT
"""What begins with a slash in a chat, and what it does there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.chat_settings import changed, described
from coordinator.cli.exits import UserError
from coordinator.plan import columns

if TYPE_CHECKING:
    from coordinator.cli.chat_session import ChatSession

_NO_SYSTEM = "-"

_KEYS = (
    "Enter sends. Alt-Enter, or a backslash at the end of a line, begins another line. Ctrl-C stops an answer; twice, "
    "or Ctrl-D, leaves."
)


class Leave(Exception):
    """The chat is over."""


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """One of them: its names, what is typed behind it, what it is for, what it does with what was typed."""

    names: tuple[str, ...]
    takes: str
    meaning: str
    run: Callable[[ChatSession, str], None]


def carry_out(chat: ChatSession, typed: str) -> None:
    """Does what a line that begins with a slash says.

    Raises:
        UserError: There is no such command, or it cannot be carried out.
        Leave: It is the one that ends the chat.
    """
    name, _, rest = typed.strip().partition(" ")
    command = next((each for each in COMMANDS if name in each.names), None)
    if command is None:
        raise UserError(f"there is no {name}: /help tells what there is; to begin a message with a slash, put a space"
                        " before it")  # fmt: skip
    command.run(chat, rest.strip())


def _help(chat: ChatSession, _typed: str) -> None:
    rows = [(f"{', '.join(each.names)} {each.takes}".rstrip(), each.meaning) for each in COMMANDS]
    chat.screen.tell("\n".join(columns(rows)))
    chat.screen.tell(_KEYS)


def _system(chat: ChatSession, typed: str) -> None:
    conversation = chat.conversation
    if typed:
        conversation.system = None if typed == _NO_SYSTEM else typed
    else:
        chat.screen.tell(conversation.system or "there is no system message: /system TEXT")


def _model(chat: ChatSession, typed: str) -> None:
    if typed:
        chat.change_model(typed)
    else:
        chat.screen.tell(chat.partner.about())


def _stats(chat: ChatSession, _typed: str) -> None:
    chat.screen.tell(chat.stats_text())


def _regenerate(chat: ChatSession, _typed: str) -> None:
    chat.regenerate()


def _clear(chat: ChatSession, _typed: str) -> None:
    chat.conversation.clear()


def _save(chat: ChatSession, typed: str) -> None:
    path = _path(typed, "/save")
    chat.conversation.save(path, chat.partner.name)
    chat.screen.tell(f"{chat.conversation.n_turns} messages are in {path}")


def _load(chat: ChatSession, typed: str) -> None:
    path = _path(typed, "/load")
    chat.conversation = type(chat.conversation).load(path)
    chat.screen.tell(f"{chat.conversation.n_turns} messages came from {path}")


def _set(chat: ChatSession, typed: str) -> None:
    name, _, value = typed.partition(" ")
    if not name:
        chat.screen.tell(described(chat.sampling))
    elif not value.strip():
        raise UserError(f"/set {name} needs a value; /set alone tells what all of them are")
    else:
        chat.sampling = changed(chat.sampling, name, value.strip())


def _exit(_chat: ChatSession, _typed: str) -> None:
    raise Leave


def _path(typed: str, command: str) -> Path:
    if not typed:
        raise UserError(f"{command} needs the name of a file")
    return Path(typed).expanduser()


COMMANDS = (
    ChatCommand(("/system",), "[TEXT]", "what the model is told before all else, from the next answer on; -: nothing",
                _system),
    ChatCommand(("/model",), "[MODEL]", "who answers; or another model from now on, with the same conversation",
                _model),
    ChatCommand(("/stats",), "", "how fast the last answer was, and what limits it", _stats),
    ChatCommand(("/regenerate", "/retry"), "", "give the last answer anew", _regenerate),
    ChatCommand(("/set",), "[NAME VALUE]", "how answers are chosen, by the names of the flags: /set temperature 0.7",
                _set),
    ChatCommand(("/clear",), "", "forget what was said, but for the system's message", _clear),
    ChatCommand(("/save",), "FILE", "write the conversation, as JSON", _save),
    ChatCommand(("/load",), "FILE", "go on with one that was saved", _load),
    ChatCommand(("/help",), "", "this", _help),
    ChatCommand(("/exit", "/quit"), "", "leave", _exit),
)  # fmt: skip
