# SPDX-License-Identifier: MIT
"""What was said in a chat, as messages for a chat template, and as a file. For `caravan chat`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from coordinator.cli.exits import UserError

_ROLES = ("system", "user", "assistant")


class Conversation:
    """A system's message, if there is one, and turns of user and assistant."""

    def __init__(self) -> None:
        self.system: str | None = None
        self._turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them."""
        first = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self._turns]

    @property
    def n_turns(self) -> int:
        """Messages, without the system's."""
        return len(self._turns)

    def ask(self, text: str) -> None:
        """The user says something."""
        self._turns.append({"role": "user", "content": text})

    def answer(self, text: str) -> None:
        """The model answers."""
        self._turns.append({"role": "assistant", "content": text})

    def take_back(self) -> None:
        """The user's last message was not answered, and is not said."""
        self._turns.pop()

    def forget_answer(self) -> str | None:
        """The last answer is not given, and is what this returns; None: the user spoke last, or nobody."""
        if not self._turns or self._turns[-1]["role"] != "assistant":
            return None
        return self._turns.pop()["content"]

    def clear(self) -> None:
        """Nothing was said; the system's message stays."""
        self._turns.clear()

    def save(self, path: Path, model: str) -> None:
        """Writes a file that `load` reads.

        Raises:
            UserError: It cannot be written, or is there and no conversation.
        """
        if path.exists():
            _read(path)  # nobody means to lose another file
        content = {"model": model, "messages": self.messages}
        try:
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: Path) -> Conversation:
        """What such a file says.

        Raises:
            UserError: It cannot be read, or is no conversation.
        """
        messages = _read(path)
        conversation = cls()
        if messages and messages[0]["role"] == "system":
            conversation.system = str(messages[0]["content"])
            messages = messages[1:]
        conversation._turns = [{"role": str(each["role"]), "content": str(each["content"])} for each in messages]
        return conversation


def _read(path: Path) -> Sequence[Mapping[str, object]]:
    try:
        messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
        if not all(each["role"] in _ROLES and isinstance(each["content"], str) for each in messages):
            raise ValueError
        return list(messages)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no conversation that /save wrote") from None
