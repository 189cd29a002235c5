# SPDX-License-Identifier: MIT
"""The sequences that have a prompt behind them, and the frames of their next tokens: lane by lane, with guesses where
they pay, or guesses alone ahead of what is known. The scheduler's; pure.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from coordinator.context_shift import is_full, shift
from coordinator.frame_order import FrameKind, FrameOrder
from coordinator.frames import PlannedFrame
from coordinator.pace import Pace
from coordinator.sequence import Limits, RunningSequence
from coordinator.slots import Slots
from coordinator.speculation import Speculation
from coordinator.turns import TurnTaking


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

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, sequence: RunningSequence) -> None:
        """It has been prefilled, or goes on after a pause."""
        bisect.insort(self._sequences, sequence, key=slot_of)

    def remove(self, sequence: RunningSequence) -> None:
        """It has ended, or pauses."""
        self._sequences.remove(sequence)

    def next_frame(self, prompts: Sequence[RunningSequence]) -> PlannedFrame | None:
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

    def frame_ahead(self) -> PlannedFrame | None:
        """Guesses of a sequence whose last tokens are still in the line, where stages would be idle otherwise."""
        if len(self._sequences) >= self._pace.n_frames_in_line(1):
            return None
        for sequence in self._sequences:
            draft = None if sequence.is_ready else self._speculation.ahead(sequence)
            if draft is not None and len(self._frames) < self._pace.n_frames_in_line(len(draft.tokens)):
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

    def _frame_of_lane(
        self, lane: int, rows: Sequence[RunningSequence], prompts: Sequence[RunningSequence]
    ) -> PlannedFrame:
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
