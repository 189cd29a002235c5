# SPDX-License-Identifier: MIT
"""A text that arrives in pieces, read as if it were whole: what the formats are written with.

A format's `read` is a generator. It asks the reader for what comes next, with `yield from`; where that has not arrived
yet, the generator rests until there is more. What is certain is told at once, what may still be the beginning of
something else is held back. Pure; one reader for each answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from coordinator.chat_output.deltas import CallArguments, CallBegun, Content, Delta, Reasoning, joined

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Rests at each `yield` until there is more text, or it has ended; gives back what was read."""

BLANKS = " \t\r\n"


class CutError(Exception):
    """The text ended in the middle of something; what was certain of that has been told."""


class MalformedError(Exception):
    """The text is not of the format that it began."""


class Reader:
    """Where a format reads, and what it has told.

    Args:
        id_of: the id of the call with that number.
    """

    def __init__(self, id_of: Callable[[int], str]) -> None:
        self._id_of = id_of
        self._text = ""
        self._at = 0
        self._ended = False
        self._deltas: list[Delta] = []
        self._content = _Trimmed()
        self._thoughts = _Trimmed(from_start=True)
        self._n_calls = 0

    # ---- for whoever feeds it ----

    def feed(self, text: str, *, ended: bool = False) -> None:
        """More text, or the end of it."""
        self._text += text
        self._ended = ended

    def take(self) -> list[Delta]:
        """What was told since the last time."""
        deltas, self._deltas = joined(self._deltas), []
        return deltas

    def settle(self) -> None:
        """What was read is certain."""
        self._text = self._text[self._at :]
        self._at = 0

    def tell_rest(self) -> None:
        """All that was read and is not certain, and all that follows, is content."""
        self.content(self._text)
        self._text, self._at = "", 0

    def drop_rest(self) -> None:
        """What was read and is not certain is nothing, as are blanks before it: a call begins, and does not come."""
        self._text, self._at = "", 0
        self._content.rest()

    def close(self) -> None:
        """The end: blanks that were held back are content, unless calls came before them."""
        if not self._n_calls:
            self._tell(Content(self._content.rest()))

    # ---- what formats tell ----

    def content(self, text: str) -> None:
        """Text of the answer; blanks before a call are none of it."""
        self._tell(Content(self._content.push(text)))

    def begin_content(self) -> None:
        """From here on there is content: blanks before it are none of it."""
        self._content = _Trimmed(from_start=True)

    def reasoning(self, text: str) -> None:
        """Text of the thoughts, without blanks around it."""
        self._tell(Reasoning(self._thoughts.push(text)))

    def begin_call(self, name: str) -> None:
        """A call whose name is known."""
        self.settle()
        self._content = _Trimmed(from_start=True)
        self._tell(CallBegun(self._n_calls, self._id_of(self._n_calls), name))
        self._n_calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that was begun last."""
        self._tell(CallArguments(self._n_calls - 1, text))

    # ---- what formats read ----

    def until(self, words: tuple[str, ...], tell: Callable[[str], None]) -> Steps[str | None]:
        """Tells what comes before the first of the words, and gives that word, read; None: the text has ended."""
        while True:
            self.settle()
            found = min(((start, word) for word in words if (start := self._text.find(word)) >= 0), default=None)
            if found is not None:
                start, word = found
                tell(self._text[:start])
                self._at = start + len(word)
                self.settle()
                return word
            n_held = 0 if self._ended else max((_overlap(self._text, word) for word in words), default=0)
            n_certain = len(self._text) - n_held
            tell(self._text[:n_certain])
            self._at = n_certain
            if self._ended:
                return None
            yield

    def before(self, *words: str) -> Steps[tuple[str, str]]:
        """The text before the first of the words, and that word; all of it is read, and none told.

        Raises:
            CutError: none comes.
        """
        while True:
            rest = self._text[self._at :]
            found = min(((start, word) for word in words if (start := rest.find(word)) >= 0), default=None)
            if found is not None:
                self._at += found[0] + len(found[1])
                return rest[: found[0]], found[1]
            yield from self._more()

    def space(self) -> Steps[None]:
        """Passes over blanks; at the end of the text, too."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANKS:
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return
            yield

    def word(self, *words: str) -> Steps[str | None]:
        """The word that stands here, read; None: none of them does, and nothing is read."""
        while True:
            rest = self._text[self._at :]
            for word in words:
                if rest.startswith(word):
                    self._at += len(word)
                    return word
            if self._ended or not any(word.startswith(rest) for word in words):
                return None
            yield

    def are_next(self, *words: str) -> Steps[bool]:
        """Whether these words come here, one after another with or without blanks; if not, nothing is read."""
        n_before = self._at
        for word in words:
            yield from self.space()
            if (yield from self.word(word)) is None:
                self._at = n_before
                return False
        return True

    def expect(self, *words: str) -> Steps[None]:
        """Reads these words, with or without blanks between them.

        Raises:
            CutError: the text ends first.
            MalformedError: something else comes.
        """
        for word in words:
            yield from self.space()
            if (yield from self.word(word)) is None:
                raise CutError if self._ended and word.startswith(self._text[self._at :]) else MalformedError

    def string(self) -> Steps[str]:
        """What a JSON string without escapes holds: the name of a tool.

        Raises:
            CutError, MalformedError: as `expect`.
        """
        yield from self.expect('"')
        text, _ = yield from self.before('"')
        return text

    def json_object(self, tell: Callable[[str], None]) -> Steps[None]:
        """Tells a JSON object as it comes.

        Raises:
            CutError: it is not whole; what there is was told.
            MalformedError: it is none.
        """
        yield from self.space()
        self.settle()
        depth, is_string, is_escaped, n_told = 0, False, False, 0
        while True:
            while self._at < len(self._text):
                char = self._text[self._at]
                self._at += 1
                if is_string:
                    is_string = is_escaped or char != '"'
                    is_escaped = char == "\\" and not is_escaped
                elif char == '"':
                    is_string = True
                elif char in "{[":
                    depth += 1
                elif char in "}]":
                    depth -= 1
                if depth == 0:
                    break
            if self._at and self._text[0] != "{" and not n_told:
                self._at = 0
                raise MalformedError
            tell(self._text[: self._at])
            n_told += self._at
            self.settle()
            if n_told and depth == 0:
                return
            yield from self._more()

    def mark(self) -> int:
        """This place, to go back to while nothing is told."""
        return self._at

    def go_back(self, mark: int) -> None:
        """To a place that was marked."""
        self._at = mark

    def _settle(self) -> None:
        """What was read is certain."""
        self._text = self._text[self._at :]
        self._at = 0

    def _more(self) -> Steps[None]:
        if self._ended:
            raise CutError
        yield

    def _tell(self, delta: Delta) -> None:
        if isinstance(delta, CallBegun) or delta.text:
            self._deltas.append(delta)


class _Trimmed:
    """Text without the blanks at its end, as long as that may be the end.

    Args:
        from_start: without those before it, too.
    """

    def __init__(self, *, from_start: bool = False) -> None:
        self._is_before = from_start
        self._held = ""

    def push(self, text: str) -> str:
        """What can be told now."""
        text = self._held + text
        if self._is_before:
            text = text.lstrip(BLANKS)
        told = text.rstrip(BLANKS)
        self._held = text[len(told) :]
        self._is_before = self._is_before and not told
        return told

    def rest(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that is a beginning of `word`, short of all of it."""
    for n in range(min(len(text), len(word) - 1), 0, -1):
        if text.endswith(word[:n]):
            return n
    return 0
