# SPDX-License-Identifier: MIT
"""Bytes of tokens into text as it can be shown: whole characters only, nothing that a stop string may still claim.

Pure; one `TextStream` per request, used by the session on its event loop. However the bytes are split over tokens, the
text is the same: a stop string counts as found at the first character that completes one, and of several completed by
that character the longest counts.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_new_decoder = codecs.getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class TextPart:
    """What a piece added.

    Attributes:
        text: What can be shown now.
        stopped: A stop string was completed; it and what follows are dropped, and the stream takes no more.
    """

    text: str
    stopped: bool = False


class TextStream:
    """The text of one request, piece by piece.

    Args:
        stop: Texts that end it; they are not shown. Empty ones are ignored.
    """

    __slots__ = ("_decoder", "_held", "_stop")

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = _new_decoder("replace")
        self._held = ""

    def push(self, piece: bytes) -> TextPart:
        """Takes the bytes of one token. Bytes that are no UTF-8 become U+FFFD, as `bytes.decode` has it."""
        text = self._decoder.decode(piece)
        if not self._stop:
            return TextPart(text)
        return self._show(self._held + text)

    def finish(self) -> TextPart:
        """No more bytes will come: what was held back, an unfinished character as U+FFFD."""
        text = self._decoder.decode(b"", True)
        if not self._stop:
            return TextPart(text)
        part = self._show(self._held + text)
        held, self._held = self._held, ""
        return part if part.stopped else TextPart(part.text + held)

    def _show(self, text: str) -> TextPart:
        start = self._find_stop(text)
        if start is not None:
            self._held = ""
            return TextPart(text[:start], stopped=True)
        n_held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - n_held :]
        return TextPart(text[: len(text) - n_held])

    def _find_stop(self, text: str) -> int | None:
        found = _first_stop(text, self._stop)
        return None if found is None else found[0]


def stop_in(pieces: Iterable[bytes], stop: Sequence[str]) -> str:
    """The one of the texts that ended these bytes; empty: none did."""
    found = _first_stop(b"".join(pieces).decode("utf-8", "replace"), stop)
    return "" if found is None else found[1]


def _first_stop(text: str, stop: Sequence[str]) -> tuple[int, str] | None:
    """Where the one begins that counts, and which that is; None: there is none."""
    found = [(start + len(each), start, each) for each in stop if (start := text.find(each)) >= 0]
    return min(found)[1:] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, short of all of it."""
    for n in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:n]):
            return n
    return 0
