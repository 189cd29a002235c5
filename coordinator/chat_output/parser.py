# SPDX-License-Identifier: MIT
"""One answer, read as it comes. Pure; the HTTP API has one for each time that an answer is told."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from coordinator.chat_output.deltas import Content, Delta, Message, Reasoning, message_of
from coordinator.chat_output.formats.base import ChatFormat, Reading
from coordinator.chat_output.reader import CutError, MalformedError, Reader, Steps
from coordinator.chat_output.registry import format_named


class OutputParser:
    """However the text is split, what it tells is the same.

    Args:
        reading: how the answer is to be read.
        seed: what ids of calls are made from; the same one gives the same ids.
        is_whole: whether what the answer was begun with is told in any case.
    """

    def __init__(self, reading: Reading, seed: str, *, is_whole: bool = False) -> None:
        format_ = format_named(reading.format)
        self._reader = Reader(lambda number: _call_id(format_, f"{seed}/{number}"))
        self._steps: Steps[None] = format_.read(self._reader, reading)
        self._is_over = False
        self._n_known: dict[type[Delta], int] = {}
        if reading.prefix:
            if not (is_whole or reading.is_echoed):
                known = parse(reading.prefix, replace(reading, prefix=""), seed)
                self._n_known = {Reasoning: len(known.reasoning), Content: len(known.content)}
            self._reader.feed(reading.prefix)

    def push(self, text: str) -> list[Delta]:
        """What more text tells."""
        self._reader.feed(text)
        self._go_on()
        return self._new(self._reader.take())

    def finish(self) -> list[Delta]:
        """What the end tells."""
        self._reader.feed("", ended=True)
        self._go_on()
        self._reader.close()
        return self._new(self._reader.take())

    def _new(self, deltas: list[Delta]) -> list[Delta]:
        """Without what the answer was begun with."""
        if not any(self._n_known.values()):
            return deltas
        new: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, Content | Reasoning):
                n_known = self._n_known[type(delta)]
                self._n_known[type(delta)] = max(0, n_known - len(delta.text))
                delta = replace(delta, text=delta.text[n_known:])
            if not isinstance(delta, Content | Reasoning) or delta.text:
                new.append(delta)
        return new

    def _go_on(self) -> None:
        if not self._is_over:
            try:
                next(self._steps)
            except CutError:
                self._is_over = True
                self._reader.drop_rest()
            except StopIteration:
                self._is_over = True
                self._reader.settle()
            except MalformedError:
                self._is_over = True
        if self._is_over:
            self._reader.tell_rest()


def parse(text: str, reading: Reading, seed: str) -> Message:
    """A whole answer."""
    parser = OutputParser(reading, seed, is_whole=True)
    return message_of([*parser.push(text), *parser.finish()])


def _call_id(format_: ChatFormat, seed: str) -> str:
    return format_.id_prefix + hashlib.sha256(seed.encode()).hexdigest()[: format_.id_length]
