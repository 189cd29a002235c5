# SPDX-License-Identifier: MIT
"""The sequences that have a prompt behind them, and the frames of their next tokens: lane by lane, with guesses where
they pay, or guesses alone ahead of what is known. The scheduler's; pure.

A sequence that is alone in the line has two frames in it: the second one follows the first, whose token goes straight
from the last stage to the first one, where the second waits for it. That is one hop less a token than by the
coordinator, which sends the next one meanwhile. At its end one frame is computed for nobody.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from coordinator.context_shift import is_full, shift
from coordinator.frame_order import FrameKind, FrameOrder
from coordinator.frames import PlannedFrame
from coordinator.pace import Pace
from coordinator.sequence import NOT_KNOWN, Limits, RunningSequence
from coordinator.slots import Slots
from coordinator.speculation import Speculation
from coordinator.turns import Prompt, TurnTaking


class Decoding:
    """Of one line, without the sequences that are paused.

    Args:
        frames: Where its frames get their place.
        turns: Of prompts and these sequences.
    """

    def __init__(
        self,
        limits: Limits,
        pace: Pace,
        frames: FrameOrder,
        turns: TurnTaking,
        slots: Slots,
        speculation: Speculation,
    ) -> None:
        self._limits = limits
        self._pace = pace
        self._frames = frames
        self._turns = turns
        self._slots = slots
        self._speculation = speculation
        self._sequences: list[RunningSequence] = []  # by slot
        self._last_lane = 0
        self._returning: tuple[int, RunningSequence] | None = None
        """The last frame that returns its token, by its number, and whose it is."""
        self.can_return = False
        """Whether the last stage reaches the first one; said by the line."""

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: RunningSequence) -> None:
        """It has been prefilled, or goes on after a pause."""
        bisect.insort(self._sequences, sequence, key=slot_of)

    def remove(self, sequence: RunningSequence) -> None:
        """It has ended, or pauses."""
        self._sequences.remove(sequence)

    def next_frame(self, prompts: Sequence[Prompt]) -> PlannedFrame | None:
        """The next frame of a lane that has none in the line, if one of its sequences has a token.

        Args:
            prompts: To be computed meanwhile.
        """
        n_decoding = len(self._sequences)
        n_lanes = self._turns.n_lanes(n_decoding, prompts)
        for offset in range(1, n_lanes + 1):
            lane = (self._last_lane + offset) % n_lanes
            if lane in self._frames.lanes:
                continue
            members = self._sequences[lane * n_decoding // n_lanes : (lane + 1) * n_decoding // n_lanes]
            rows = [each for each in members if each.is_ready and not self._speculation.waits(each)]
            if rows:
                self._make_room(rows)
                return self._frame_of_lane(lane, rows, prompts)
        return None

    def frame_that_follows(self) -> PlannedFrame | None:
        """The frame of the token that one in the line is about to sample, of a sequence that is alone."""
        if self._returning is None or not self._sequences:
            return None
        number, sequence = self._returning
        if sequence is not self._sequences[0] or sequence.is_ready or sequence.n_unsure:
            return None
        frame = self._frames.new()
        frame.follows = number
        self._add_tokens(frame, sequence, [NOT_KNOWN], n_sure=0)
        frame.tokens = [0]
        self._note_returning(frame, sequence)
        self._turns.note_ahead()
        self._frames.sent(frame, FrameKind.AHEAD, [(sequence, 1, sequence.n_wrong)])
        return frame

    def _note_returning(self, frame: PlannedFrame, sequence: RunningSequence) -> None:
        """Its only token is returned if another frame may follow it."""
        n_sampled = sequence.n_generated + sequence.n_unsure + 1
        has_room = len(sequence.cached) < self._limits.n_ctx - self._limits.shifts
        frame.returns = n_sampled < sequence.request.max_tokens and has_room
        self._returning = (frame.number, sequence) if frame.returns else None

    def frame_ahead(self) -> PlannedFrame | None:
        """Guesses of a sequence whose last tokens are still in the line, where stages would be idle otherwise."""
        if len(self._sequences) >= self._pace.n_frames_in_line(1):
            return None
        for sequence in self._sequences:
            draft = None if sequence.is_ready else self._speculation.ahead(sequence)
            n_live = len(self._frames) - self._frames.n_void
            if draft is not None and n_live < self._pace.n_frames_in_line(len(draft.tokens)):
                frame = self._frames.new()
                self._speculation.note_sent(sequence, draft)
                self._add_tokens(frame, sequence, draft.tokens, n_sure=0)
                rows = [(sequence, len(draft.tokens), sequence.n_wrong)]
                self._frames.sent(frame, FrameKind.AHEAD, rows)
                return frame
        return None

    def _make_room(self, rows: Sequence[RunningSequence]) -> None:
        """Takes tokens out of contexts that are full, with the next frame."""
        for sequence in rows:
            if self._limits.shifts and is_full(sequence, self._limits.n_ctx):
                self._frames.operations += shift(sequence)
                self._slots.note_shift(sequence.slot, sequence.request.n_keep)
                self._speculation.note_shift(sequence)

    def _frame_of_lane(self, lane: int, rows: Sequence[RunningSequence], prompts: Sequence[Prompt]) -> PlannedFrame:
        frame = self._frames.new()
        n_lanes = self._turns.n_lanes(len(self._sequences), prompts)
        drafts = self._speculation.drafts(rows, n_lanes)
        for number, sequence in enumerate(rows):
            tokens = [sequence.text[-1]]
            if drafts is not None:
                self._speculation.note_sent(sequence, drafts[number])
                tokens += drafts[number].tokens
            self._add_tokens(frame, sequence, tokens, n_sure=1)
            sequence.is_ready = False
        self._last_lane = lane
        self._turns.note_lane(len(self._sequences), prompts)
        n_rows = len(frame.tokens) // len(rows)
        # What cannot forget the end of a sequence would lose all of it for the frame that is one too many.
        can_follow = self.can_return and not self._limits.n_drafts and self._limits.can_forget_part
        if can_follow and len(self._sequences) == 1 and not prompts:
            self._note_returning(frame, rows[0])
        else:
            self._returning = None
        in_flight = [(sequence, n_rows, sequence.n_wrong) for sequence in rows]
        self._frames.sent(frame, FrameKind.DECODE, in_flight, lane)
        return frame

    def _add_tokens(
        self, frame: PlannedFrame, sequence: RunningSequence, tokens: Sequence[int], *, n_sure: int
    ) -> None:
        """Adds rows that are all to be sampled; those after the first `n_sure` are guesses."""
        cached = sequence.cached
        first, position = len(frame.tokens), len(cached)
        frame.is_decode = True
        frame.tokens += tokens
        frame.positions += range(position, position + len(tokens))
        frame.seq_ids += [sequence.slot] * len(tokens)
        frame.outputs += range(first, first + len(tokens))
        frame.drafts += range(first + n_sure, first + len(tokens))
        cached += tokens


def slot_of(sequence: RunningSequence) -> int:
    """By which they are in order."""
    return sequence.slot
