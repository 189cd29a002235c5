# SPDX-License-Identifier: MIT
"""What the scheduler guesses, when, and how much of it: from texts that repeat (`drafting`), where the line's pace says
that it pays. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.drafting import Draft, Library, Lookup, Rates, n_worth
from coordinator.pace import Pace
from coordinator.sequence import Drafted, Limits, RunningSequence

_LIKELY = 0.3
"""How likely it must be that all guesses before a frame's are right, for it to go ahead of their results. If they are,
a whole trip is saved; if not, the frame that follows waits for the rest of one stage's time."""

_WORTH_TRYING = 0.5
_N_TRIED = 4
"""Guesses that are sent once, if they are so likely to be right, to see what a frame with them takes."""


class Speculation:
    """The guesses of one session; none where `limits.n_drafts` is 0."""

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self._limits = limits
        self._pace = pace
        self._library = Library()
        self.rates = Rates()

    def begin(self, sequence: RunningSequence) -> None:
        """Its first token was sampled."""
        if self._limits.n_drafts:
            sequence.lookup = Lookup()
            sequence.lookup.extend(sequence.text)

    def end(self, sequence: RunningSequence) -> None:
        """It has ended; its text may serve others."""
        if sequence.lookup is not None:
            self._library.add(sequence.lookup)

    def drafts(self, rows: Sequence[RunningSequence], n_lanes: int) -> list[Draft] | None:
        """Guesses for each of the sequences of a frame, as many for one as for all (llama.cpp computes sequences
        together as far as they have as many tokens); None if that is not worth its while."""
        if not self._limits.n_drafts:
            return None
        n_most = min(self._n_most(sequence) for sequence in rows)
        n_most = min(n_most, self._limits.n_batch // len(rows) - 1)
        drafts = []
        for sequence in rows:
            draft = self._guess(sequence, sequence.text, n_most)
            if draft is None:
                return None
            drafts.append(draft)
        rate = min(self.rates.rate(draft.n_matched) for draft in drafts)
        n_drafts = self._n_worth(rate, n_most, len(rows), n_lanes)
        if not n_drafts:
            return None
        return [Draft(draft.tokens[:n_drafts], draft.n_matched) for draft in drafts]

    def ahead(self, sequence: RunningSequence) -> Draft | None:
        """Guesses beyond those that are still in the line, if it is likely enough that all before them are right; else
        they would be void."""
        if not sequence.n_unsure:
            return None
        n_most = self._n_most(sequence)
        draft = self._guess(sequence, sequence.cached, n_most)
        if draft is None:
            return None
        rate = self.rates.rate(draft.n_matched)
        n_drafts = min(n_most, 1 + self._n_worth(rate, n_most, 1, 1))
        if n_drafts < 2 or rate ** (sequence.n_unsure + 1) < _LIKELY:
            return None
        return Draft(draft.tokens[:n_drafts], draft.n_matched)

    def note_sent(self, sequence: RunningSequence, draft: Draft) -> None:
        """These guesses go down the line, after what was sent of the sequence, or after its last token."""
        start = max(len(sequence.cached), len(sequence.text))
        sequence.drafted.append(Drafted(start, start + len(draft.tokens), draft.n_matched))

    def note_result(self, sequence: RunningSequence, position: int, *, is_right: bool) -> None:
        """What was guessed at that position of the text is right, or not: then all later guesses are void."""
        drafted = sequence.drafted[0]
        if not is_right:
            self.rates.note(drafted.n_matched, position - drafted.start, was_wrong=True)
            sequence.drafted.clear()
        elif position == drafted.end - 1:
            self.rates.note(drafted.n_matched, drafted.end - drafted.start, was_wrong=False)
            sequence.drafted.popleft()

    def _guess(self, sequence: RunningSequence, context: Sequence[int], n_most: int) -> Draft | None:
        if sequence.lookup is None:
            return None
        return self._library.guess(sequence.lookup, context, n_most)

    def _n_most(self, sequence: RunningSequence) -> int:
        """What the request still wants and the context still holds, after a token that is sure."""
        n_sent = max(len(sequence.cached), len(sequence.text))
        n_wanted = sequence.request.max_tokens - (n_sent - len(sequence.request.prompt)) - 1
        return min(self._limits.n_drafts, n_wanted, self._limits.n_ctx - n_sent)

    def _n_worth(self, rate: float, n_most: int, n_sequences: int, n_lanes: int) -> int:
        def frame_s(n_guesses: int) -> float:
            seconds = self._pace.stage_s(n_sequences * (1 + n_guesses))
            return max(n_lanes * max(seconds), sum(seconds) + self._pace.trip_s)

        n_drafts = n_worth(rate, n_most, frame_s)
        if n_drafts or rate < _WORTH_TRYING:
            return n_drafts
        # What such a frame takes may only be supposed: one is sent to see.
        n_tried = min(n_most, _N_TRIED)
        return 0 if self._pace.has_seen(n_sequences * (1 + n_tried)) else n_tried
