# SPDX-License-Identifier: MIT
"""What a draft model on a worker is sent: the texts that it goes by, and one row after another that follows what the
row before it samples, so that a whole draft costs one trip. Like `draft_model` for one on this machine it takes up what
it is told as soon as it is told: what is on its way and goes by a guess that was wrong is called void. Pure: contexts
and results in, frames and offers out; `draft_line` drives it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.frames import CacheOperation, PlannedFrame, Remove, Request, SampledRow, Start
from coordinator.offers import DraftContext, Offer
from coordinator.slots import n_common_tokens
from native import SamplingParams

_MOST_IN_FLIGHT = 5
"""Frames: one that is computed, and as many as wait in a worker's inbox. Word of void ones would wait behind more. A
guess takes some milliseconds and a trip a few of them, so the worker does not wait for more."""

_GREEDY = SamplingParams(temperature=0)


class DraftSchedule:
    """For one line of one stage, whose cache is empty.

    Args:
        n_batch: Tokens of a frame, at most; at least one for each slot.
        n_vocab: Tokens that both models know.
    """

    def __init__(self, n_slots: int, n_batch: int, n_vocab: int) -> None:
        self._n_batch = n_batch
        self._n_vocab = n_vocab
        self._texts = [_Text() for _ in range(n_slots)]
        self._in_flight: deque[_Frame] = deque()
        self._operations: list[CacheOperation] = []
        self._voids: list[int] = []
        self._n_frames = 0

    def tell(self, contexts: Sequence[DraftContext]) -> None:
        """How texts go on. One with tokens that the draft model does not know is left alone."""
        for context in contexts:
            text = self._texts[context.slot]
            text.until = context.until
            if context.start > len(text.known) or max(context.tokens, default=0) >= self._n_vocab:
                text.until = 0
            if text.until:
                self._take(context, text)

    def take_voids(self) -> Sequence[int]:
        """Numbers of the frames in flight that the worker is to be told are void; each is given once."""
        voids, self._voids = self._voids, []
        return voids

    def next_frame(self) -> PlannedFrame | None:
        """To be sent now; None: there is nothing to compute, or enough on its way."""
        if len(self._in_flight) >= _MOST_IN_FLIGHT:
            return None
        waiting = [(text.n_to_compute, slot) for slot, text in enumerate(self._texts) if text.n_to_compute]
        if not waiting:
            return None
        self._n_frames += 1
        frame = PlannedFrame(self._n_frames, operations=self._operations, is_decode=True)
        self._operations = []
        if frame.number == 1:
            request = Request(0, (), 1, _GREEDY)
            frame.starts = [Start(slot, request) for slot in range(len(self._texts))]
        parts = []
        # Those that need least first: guesses go on while a prompt is computed.
        for _, slot in sorted(waiting):
            if len(frame.tokens) < self._n_batch:
                parts.append(self._add_part(frame, slot))
        self._in_flight.append(_Frame(frame.number, parts))
        return frame

    def result(self, number: int, rows: Sequence[SampledRow], took_s: float) -> list[Offer]:
        """The answer to the oldest frame in flight.

        Args:
            took_s: Seconds that the worker computed it.

        Raises:
            ValueError: It answers another frame, or other rows than asked for.
        """
        if not self._in_flight or self._in_flight[0].number != number:
            raise ValueError(f"the draft model answered frame {number}, which is not due")
        frame = self._in_flight.popleft()
        sampling = [part for part in frame.parts if part.is_sampled]
        if frame.is_void and not rows:
            return []
        if len(rows) != len(sampling):
            raise ValueError(f"the draft model answered {len(rows)} rows of frame {number}, not {len(sampling)}")
        # The first guess of a text takes as long as the text does, which says nothing of the next.
        guess_s = took_s if all(part.n_tokens == 1 for part in frame.parts) else 0.0
        offers = [self._sampled(part, row, guess_s) for part, row in zip(sampling, rows, strict=True)]
        return [offer for offer in offers if offer is not None]

    def _take(self, context: DraftContext, text: _Text) -> None:
        is_new = context.request_id != text.request_id or not context.start
        text.request_id = context.request_id
        text.known[context.start :] = context.tokens
        if is_new:
            # The last token is computed again where all are there: the guess comes from its logits.
            n_same = min(n_common_tokens(text.fed, text.known), len(text.known) - 1)
            if n_same < len(text.fed):
                self._forget(context.slot, text, n_same)
            return
        for position in range(context.start, min(len(text.fed), len(text.known))):
            if text.fed[position] not in (None, text.known[position]):
                self._forget(context.slot, text, position)
                return

    def _add_part(self, frame: PlannedFrame, slot: int) -> _Part:
        text, start, first_row = self._texts[slot], len(self._texts[slot].fed), len(frame.tokens)
        tokens = text.known[start : start + self._n_batch - first_row]
        if tokens:
            text.fed += tokens
        else:
            frame.chained = [*frame.chained, first_row]
            tokens = [0]
            text.fed.append(text.ahead)
        text.ahead = None
        n_tokens = len(tokens)
        frame.tokens += tokens
        frame.positions += range(start, start + n_tokens)
        frame.seq_ids += [slot] * n_tokens
        is_sampled = len(text.fed) >= len(text.known)
        if is_sampled:
            frame.outputs.append(first_row + n_tokens - 1)
        return _Part(slot, n_tokens, start + n_tokens, text.n_wrong, is_sampled)

    def _sampled(self, part: _Part, row: SampledRow, took_s: float) -> Offer | None:
        """What a part of a frame sampled: a guess, if its text does not know better."""
        text, position, token = self._texts[part.slot], part.end, row.token
        if token is None:
            raise ValueError(f"the draft model sampled nothing: {row.error}")
        if part.n_wrong != text.n_wrong:
            return None
        if position == len(text.fed):
            text.ahead = token
        elif text.fed[position] is None:
            text.fed[position] = token
            if position < len(text.known) and text.known[position] != token:
                self._forget(part.slot, text, position)
        if not len(text.known) <= position < text.until:
            return None
        if token >= self._n_vocab:
            # Nothing from there on is a guess at what the other model says.
            text.until = position
            return None
        return Offer(text.request_id, len(text.known), position, (token,), took_s)

    def _forget(self, slot: int, text: _Text, n_kept: int) -> None:
        """From that position on the cache holds another text, or will."""
        del text.fed[n_kept:]
        text.ahead = None
        text.n_wrong += 1
        self._operations.append(Remove(slot, n_kept))
        # A frame is void if all of it is to be forgotten, and no later one that is not goes by its cells.
        needed: set[int] = set()
        for frame in reversed(self._in_flight):
            for part in frame.parts:
                part.is_void |= part.slot == slot and part.end - part.n_tokens >= n_kept
            slots = {part.slot for part in frame.parts}
            if slots & needed or not all(part.is_void for part in frame.parts):
                needed |= slots
            elif not frame.is_void:
                frame.is_void = True
                self._voids.append(frame.number)


@dataclass(slots=True)
class _Text:
    """The text of a slot.

    Attributes:
        known: As far as it is told.
        fed: What the slot's cache holds of it and of guesses when all that was sent is computed; None: what the row
            before samples, which has not come.
        ahead: What the last row of these sampled; None: that has not come.
        until: Position before which to guess.
        n_wrong: How often what was fed turned out to be another text.
    """

    request_id: int = -1
    known: list[int] = field(default_factory=list)
    fed: list[int | None] = field(default_factory=list)
    ahead: int | None = None
    until: int = 0
    n_wrong: int = 0

    @property
    def n_to_compute(self) -> int:
        """Tokens until the next guess, if one is wanted."""
        if self.until <= len(self.known) or len(self.fed) >= self.until - 1:
            return 0
        return max(1, len(self.known) - len(self.fed))


@dataclass(slots=True)
class _Part:
    """What a frame has of a slot, up to the position `end`, whose guess is sampled after it, if any is."""

    slot: int
    n_tokens: int
    end: int
    n_wrong: int
    is_sampled: bool
    is_void: bool = False


@dataclass(slots=True)
class _Frame:
    number: int
    parts: Sequence[_Part]
    is_void: bool = False
