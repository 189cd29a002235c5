# SPDX-License-Identifier: MIT
"""What the scheduler guesses, when, and how much of it: from texts that repeat (`drafting`) or by what a draft model
offers (`offers`), where the line's pace says that it pays. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from coordinator.drafting import WORTH, Draft, Library, Lookup, Rates, n_worth
from coordinator.offers import DraftContext, Offer, Offers
from coordinator.pace import Pace
from coordinator.sequence import Drafted, Limits, RunningSequence

_LIKELY = 0.3
"""How likely it must be that all guesses before a frame's are right, for it to go ahead of their results. If they are,
a whole trip is saved; if not, the frame that follows waits for the rest of one stage's time."""

_WORTH_AMONG_OTHERS = 1.2
"""How many times the tokens per second guesses must promise where others share the line: then frames that differ in
length leave stages idle, which no estimate knows. Six streams on simulated CPUs lost where a tenth was promised."""

_WORTH_TRYING = 0.5
_N_TRIED = 4
"""Guesses that are sent once, if they are so likely to be right, to see what a frame with them takes."""

_MOST_AHEAD = 32
"""Guesses of a draft model that are asked for at most, beyond what is known of a text."""

_SURE = 0.99
"""No draft model is held to be right more often."""

_MEMORY = 0.1
"""Of a new guess in the average of what they take."""


class Speculation:
    """The guesses of one session; none where `limits.n_drafts` is 0."""

    def __init__(self, limits: Limits, pace: Pace) -> None:
        self.limits = limits
        self._pace = pace
        self._library = Library()
        self._contexts: list[DraftContext] = []
        self._guess_s = 0.0
        self.rates = Rates()
        self.has_draft_model = limits.has_draft_model and limits.n_drafts > 0

    def restart(self, limits: Limits, pace: Pace) -> None:
        """The line is another one: what is known of texts and rates stays."""
        self.limits, self._pace = limits, pace

    def take_contexts(self) -> list[DraftContext]:
        """What the draft model is to be told, in order; each is given once."""
        contexts, self._contexts = self._contexts, []
        return contexts

    def admit(self, sequence: RunningSequence) -> None:
        """It has a slot; the draft model is told, if there is one."""
        if self.has_draft_model:
            sequence.offers = Offers(len(sequence.text))
            self._contexts.append(self._context(sequence, 0))

    def begin(self, sequence: RunningSequence) -> None:
        """Its prompt is in the line, and its first token known."""
        if self.limits.n_drafts and not self.limits.has_draft_model:
            sequence.lookup = Lookup()
            sequence.lookup.extend(sequence.text)

    def end(self, sequence: RunningSequence) -> None:
        """It has ended; its text may serve others."""
        if sequence.lookup is not None:
            self._library.add(sequence.lookup)
        if sequence.offers is not None:
            self._contexts.append(DraftContext(sequence.slot, sequence.request.id, 0, (), 0))

    def note_token(self, sequence: RunningSequence, token: int) -> None:
        """The text has one more."""
        if sequence.lookup is not None:
            sequence.lookup.extend((token,))
        if sequence.offers is not None:
            was_offered = sequence.offers.note(len(sequence.text) - 1, token)
            if was_offered is not None:
                self.rates.note(None, int(was_offered), was_wrong=not was_offered)

    def go_on(self, sequence: RunningSequence, n_text: int) -> None:
        """The text is longer than those `n_text` tokens; the draft model is told."""
        if sequence.offers is not None:
            self._contexts.append(self._context(sequence, n_text))

    def note_shift(self, sequence: RunningSequence) -> None:
        """Its text has lost some of its tokens; the draft model is told."""
        self.admit(sequence)

    def offer(self, sequence: RunningSequence, offer: Offer) -> bool:
        """The draft model has guessed; whether there is more to send than before."""
        if offer.took_s > 0:
            known_s = self._guess_s or offer.took_s
            self._guess_s = known_s + _MEMORY * (offer.took_s - known_s)
        return sequence.offers is not None and sequence.offers.add(offer, sequence.text)

    def waits(self, sequence: RunningSequence) -> bool:
        """Whether its token waits for guesses that are to go with it."""
        if self.limits.runs_ahead or sequence.offers is None or not self.has_draft_model:
            return False
        n_wanted = min(sequence.n_wanted, self._n_most(sequence))
        return len(sequence.offers.after(len(sequence.text), n_wanted)) < n_wanted

    def drafts(self, rows: Sequence[RunningSequence], n_lanes: int) -> list[Draft] | None:
        """Guesses for each of the sequences of a frame, as many for one as for all (llama.cpp computes sequences
        together as far as they have as many tokens); None if that is not worth its while."""
        if not self.limits.n_drafts:
            return None
        n_most = min(self._n_most(sequence) for sequence in rows)
        n_most = min(n_most, self.limits.n_batch // len(rows) - 1)
        drafts = []
        for sequence in rows:
            draft = self._guess(sequence, sequence.text, n_most)
            if draft is None:
                return None
            drafts.append(draft)
            n_most = min(n_most, len(draft.tokens))
        rate = min(self.rates.rate(draft.n_matched) for draft in drafts)
        n_drafts = self._n_worth(rate, n_most, len(rows), n_lanes)
        if not n_drafts:
            return None
        return [Draft(draft.tokens[:n_drafts], draft.n_matched) for draft in drafts]

    def ahead(self, sequence: RunningSequence) -> Draft | None:
        """Guesses beyond all that is in the line of a sequence, if it is likely enough that all before them are right;
        else they would be void."""
        if sequence.offers is not None:
            return self._offered_ahead(sequence)
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
        sequence.n_drafted += len(draft.tokens)

    def note_result(self, sequence: RunningSequence, position: int, *, is_right: bool) -> None:
        """What was guessed at that position of the text is right, or not: then all later guesses are void."""
        drafted = sequence.drafted[0]
        if not is_right:
            self._note_rate(drafted, position - drafted.start, was_wrong=True)
            sequence.drafted.clear()
        elif position == drafted.end - 1:
            self._note_rate(drafted, drafted.end - drafted.start, was_wrong=False)
            sequence.drafted.popleft()

    def _note_rate(self, drafted: Drafted, n_right: int, *, was_wrong: bool) -> None:
        if drafted.n_matched is not None:  # what a model offers counts whether it was sent or not
            self.rates.note(drafted.n_matched, n_right, was_wrong=was_wrong)

    def _offered_ahead(self, sequence: RunningSequence) -> Draft | None:
        """As many at a time as the draft model makes while a stage computes a frame: then each frame finds the first
        stage about idle. So what a wrong one makes void keeps the next token waiting for one short frame."""
        if not self.limits.runs_ahead:
            return None
        n_room = min(self._n_ahead() - sequence.n_unsure, self._n_most(sequence))
        n_room = min(n_room, self._pace.n_tokens_ahead(self.limits.n_drafts))
        draft = self._guess(sequence, sequence.cached, n_room)
        n_together = round(max(self._pace.stage_s(1)) / self._guess_s) if self._guess_s else 1
        if draft is None or len(draft.tokens) < min(n_room, n_together):
            return None
        return draft

    def _n_ahead(self) -> int:
        """Guesses beyond what is known that are worth a frame. The n-th is of use if all n are right: then it saves a
        trip; if not, the token that comes in its place waits for a stage's time."""
        stages_s = self._pace.stage_s(1)
        stage_s = max(stages_s)
        likely = stage_s / (stage_s + sum(stages_s) + self._pace.trip_s)
        rate = min(self.rates.rate(None), _SURE)
        return max(0, min(_MOST_AHEAD, int(math.log(likely) / math.log(max(rate, 1e-3)))))

    def _context(self, sequence: RunningSequence, n_text: int) -> DraftContext:
        """Told what comes after `n_text` tokens. One guess at least is asked for: else it were never known when the
        draft model is right again."""
        if self.limits.runs_ahead:
            sequence.n_wanted = max(1, self._n_ahead())
        else:
            sequence.n_wanted = self._n_worth(self.rates.rate(None), self._n_most(sequence), 1, 1, self._guess_s)
        until = min(len(sequence.text) + sequence.n_wanted, self.limits.n_ctx)
        tokens = tuple(sequence.text[n_text:])
        return DraftContext(sequence.slot, sequence.request.id, n_text, tokens, until)

    def _guess(self, sequence: RunningSequence, context: Sequence[int], n_most: int) -> Draft | None:
        if sequence.offers is not None:
            tokens = sequence.offers.after(len(context), n_most)
            return Draft(tokens, None) if tokens else None
        if sequence.lookup is None:
            return None
        return self._library.guess(sequence.lookup, context, n_most)

    def _n_most(self, sequence: RunningSequence) -> int:
        """What the request still wants and the context still holds, after a token that is sure."""
        n_sent = max(len(sequence.cached), len(sequence.text))
        n_wanted = sequence.request.max_tokens - sequence.n_generated - (n_sent - len(sequence.text)) - 1
        # One that shifts does so when one place is left, whether there are guesses or not.
        n_room = self.limits.n_ctx - self.limits.shifts - n_sent
        return min(self.limits.n_drafts, n_wanted, n_room)

    def _n_worth(self, rate: float, n_most: int, n_sequences: int, n_lanes: int, guess_s: float = 0.0) -> int:
        def frame_s(n_guesses: int) -> float:
            seconds = self._pace.stage_s(n_sequences * (1 + n_guesses))
            return max(n_lanes * max(seconds), sum(seconds) + self._pace.trip_s) + n_guesses * guess_s

        n_drafts = n_worth(rate, n_most, frame_s, WORTH if n_sequences == n_lanes == 1 else _WORTH_AMONG_OTHERS)
        if n_drafts or rate < _WORTH_TRYING:
            return n_drafts
        # What such a frame takes may only be supposed: one is sent to see.
        n_tried = min(n_most, _N_TRIED)
        return 0 if self._pace.has_seen(n_sequences * (1 + n_tried)) else n_tried
