# SPDX-License-Identifier: MIT
"""Guessing: whatever is guessed, right or wrong, the tokens are those that come without it; and where texts repeat,
fewer trips bring them."""

import random
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.drafting import Library, Lookup, Rates, n_worth
from coordinator.frames import PlannedFrame, Remove, Request, SampledRow, Shift
from coordinator.generation import FinishReason
from coordinator.offers import DraftContext, Offer
from coordinator.pace import Pace
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from native import SamplingParams

_END = 0
_LIMITS = Limits(n_slots=2, n_batch=32, n_ctx=256, n_stages=3, n_waiting=8, n_drafts=8)


def _pace(n_stages: int) -> Pace:
    """Stages that take as long for many tokens as for one: every guess is worth its while."""
    return Pace(n_stages, lambda _n_tokens: [1.0] * n_stages)


class _Model:
    """A line that samples what a rule says of the text so far; its last stage passes over drafts as a worker's does."""

    def __init__(self, limits: Limits, *, repeats: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._table = [self._chance.randrange(1, 6) for _ in range(repeats)]
        self._surprises = {self._chance.randrange(8, 200): self._chance.randrange(1, 6) for _ in range(repeats % 5)}
        self.caches: dict[int, list[int]] = {seq_id: [] for seq_id in range(limits.n_slots)}
        self._last: dict[int, int] = {}
        self.in_flight: deque[PlannedFrame] = deque()
        self.n_trips = 0

    def next_token(self, text: list[int]) -> int:
        """Repeats itself, but for some surprises."""
        return self._surprises.get(len(text), self._table[(len(text) + text[0]) % len(self._table)])

    def break_line(self) -> None:
        """All that is in it is lost."""
        self.in_flight.clear()
        self._last.clear()
        for cache in self.caches.values():
            cache.clear()

    def answer(self) -> tuple[int, list[SampledRow]]:
        frame = self.in_flight.popleft()
        self.n_trips += 1
        for operation in frame.operations:
            assert not isinstance(operation, Shift)
            if isinstance(operation, Remove):
                del self.caches[operation.seq_id][operation.start :]
            else:
                self.caches[operation.target] = list(self.caches[operation.source])
        rows = []
        for row, (token, position, seq_id) in enumerate(zip(frame.tokens, frame.positions, frame.seq_ids, strict=True)):
            cache = self.caches[seq_id]
            assert position == len(cache)
            cache.append(token)
            if row not in frame.outputs:
                continue
            last = self._last.pop(seq_id, None)
            if row in frame.drafts and token != last:
                rows.append(SampledRow(seq_id, None))
                continue
            self._last[seq_id] = self.next_token(cache)
            rows.append(SampledRow(seq_id, self._last[seq_id]))
        return frame.number, rows


class _DraftModel:
    """Offers guesses that follow the model's own rule, or that do not, or that are about a text of before."""

    def __init__(self, model: _Model, seed: int) -> None:
        self._model = model
        self._chance = random.Random(seed)
        self._texts: dict[int, list[int]] = {}
        self._asked: dict[int, DraftContext] = {}

    def tell(self, contexts: list[DraftContext]) -> None:
        for context in contexts:
            text = self._texts.setdefault(context.request_id, [])
            assert not context.until or context.start == len(text)
            text += context.tokens
            self._asked[context.slot] = context

    def right(self, context: DraftContext) -> Offer:
        """All that was asked for."""
        text = list(self._texts[context.request_id])
        n_known = len(text)
        while len(text) < context.until:
            text.append(self._model.next_token(text))
        return Offer(context.request_id, n_known, n_known, tuple(text[n_known:]), 0.001)

    def any(self) -> Offer | None:
        """What was asked for, or tokens of any kind, at any place, of a text of before."""
        asked = [context for context in self._asked.values() if context.until]
        if not asked:
            return None
        context = self._chance.choice(asked)
        offer = self.right(context)
        if self._chance.random() < 0.5:
            return offer
        n_known = self._chance.randrange(max(0, offer.n_known - 3), offer.n_known + 1)
        tokens = tuple(self._chance.randrange(1, 6) for _ in range(self._chance.randrange(1, 6)))
        return replace(offer, n_known=n_known, start=n_known + self._chance.randrange(4), tokens=tokens)

    @property
    def offers(self) -> list[Offer]:
        """All that is asked for."""
        return [self.right(context) for context in self._asked.values() if context.until]


def _texts(
    limits: Limits, requests: list[Request], *, repeats: int, seed: int, n_offers: int = 0, breaks: float = 0.0
) -> tuple[dict[int, list[int]], int]:
    """What each request gets, and the trips it took; with up to so many offers before each result.

    Args:
        breaks: How likely the line breaks before each result, and another carries on.
    """
    scheduler = Scheduler(limits, [_END], _pace(limits.n_stages))
    model = _Model(limits, repeats=repeats, seed=seed)
    drafts, chance = _DraftModel(model, seed), random.Random(seed)
    texts: dict[int, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        scheduler.submit(request)
    while True:
        while (frame := scheduler.next_frame()) is not None:
            assert len(frame.tokens) <= limits.n_batch
            assert max(frame.positions) < limits.n_ctx
            model.in_flight.append(frame)
        drafts.tell(scheduler.take_draft_contexts())
        offers = [drafts.any() for _ in range(chance.randrange(n_offers + 1))] if n_offers else []
        if not model.in_flight and scheduler.n_running:
            # Whoever waits for guesses gets them.
            offers += drafts.offers
        for offer in filter(None, offers):
            scheduler.offer(offer)
            frame = scheduler.next_frame()
            if frame is not None:
                model.in_flight.append(frame)
        if not model.in_flight:
            break
        if chance.random() < breaks:
            n_stages = chance.randrange(1, 4)
            scheduler.restart(limits.with_stages(n_stages), _pace(n_stages))
            model.break_line()
            continue
        for outcome in scheduler.result(*model.answer()):
            assert outcome.row.token is not None
            texts[outcome.request_id].append(outcome.row.token)
    assert (scheduler.n_running, scheduler.n_in_flight) == (0, 0)
    return texts, model.n_trips


def _requests(n_requests: int, max_tokens: int) -> list[Request]:
    return [Request(number, tuple(range(1, 20 + number)), max_tokens, SamplingParams()) for number in range(n_requests)]


@settings(max_examples=150)
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 12),
    st.integers(0, 999),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_with_guesses_every_request_gets_the_tokens_that_it_gets_without(
    n_requests: int, max_tokens: int, repeats: int, seed: int, n_stages: int, n_drafts: int
) -> None:
    limits = replace(_LIMITS, n_stages=n_stages, n_drafts=n_drafts)
    requests = _requests(n_requests, max_tokens)
    guessed, _ = _texts(limits, requests, repeats=repeats, seed=seed)
    plain, _ = _texts(replace(limits, n_drafts=0), requests, repeats=repeats, seed=seed)
    assert guessed == plain
    assert all(len(text) == max_tokens for text in guessed.values())


@settings(max_examples=200)
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.integers(1, 12),
    st.integers(0, 999),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_whatever_a_draft_model_offers_and_whenever_the_tokens_are_the_same(
    n_requests: int, max_tokens: int, repeats: int, seed: int, n_stages: int, n_offers: int, runs_ahead: bool
) -> None:
    limits = replace(_LIMITS, n_stages=n_stages, has_draft_model=True, runs_ahead=runs_ahead)
    requests = _requests(n_requests, max_tokens)
    guessed, _ = _texts(limits, requests, repeats=repeats, seed=seed, n_offers=n_offers)
    plain, _ = _texts(replace(limits, n_drafts=0), requests, repeats=repeats, seed=seed)
    assert guessed == plain


@settings(max_examples=150)
@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 12), st.integers(0, 999), st.booleans())
def test_wherever_the_line_breaks_the_tokens_are_the_same(
    n_requests: int, max_tokens: int, repeats: int, seed: int, has_draft_model: bool
) -> None:
    limits = replace(_LIMITS, has_draft_model=has_draft_model)
    requests = _requests(n_requests, max_tokens)
    n_offers = 2 if has_draft_model else 0
    broken, _ = _texts(limits, requests, repeats=repeats, seed=seed, n_offers=n_offers, breaks=0.1)
    plain, _ = _texts(replace(limits, n_drafts=0), requests, repeats=repeats, seed=seed)
    assert broken == plain


def test_a_text_that_repeats_itself_comes_in_a_third_of_the_trips() -> None:
    requests = _requests(1, 120)
    _, n_guessed = _texts(_LIMITS, requests, repeats=5, seed=1)
    _, n_plain = _texts(replace(_LIMITS, n_drafts=0), requests, repeats=5, seed=1)
    assert 3 * n_guessed < n_plain


def test_guesses_go_ahead_of_the_results_of_those_before_them() -> None:
    scheduler = Scheduler(replace(_LIMITS, n_drafts=3), [_END], _pace(3))
    model = _Model(_LIMITS, repeats=5, seed=2)
    scheduler.submit(_requests(1, 200)[0])
    most = 0
    while (frame := scheduler.next_frame()) is not None or model.in_flight:
        if frame is not None:
            model.in_flight.append(frame)
            most = max(most, sum(bool(other.drafts) for other in model.in_flight))
        else:
            scheduler.result(*model.answer())
    assert most >= 3


def test_a_request_that_ends_among_its_guesses_leaves_a_slot_that_knows_what_it_holds() -> None:
    limits = replace(_LIMITS, n_slots=1)
    requests = _requests(3, 31)
    texts, _ = _texts(limits, requests, repeats=3, seed=5)
    assert {len(text) for text in texts.values()} == {31}


def test_a_stop_while_guesses_are_in_the_line_ends_it_there() -> None:
    scheduler = Scheduler(_LIMITS, [_END], _pace(3))
    model = _Model(_LIMITS, repeats=3, seed=2)
    scheduler.submit(_requests(1, 100)[0])
    finish = None
    for _ in range(200):
        while (frame := scheduler.next_frame()) is not None:
            model.in_flight.append(frame)
        if not model.in_flight:
            break
        number, rows = model.answer()
        if model.n_trips == 9:
            rows[0].token = _END
        for outcome in scheduler.result(number, rows):
            finish = outcome.finish
    assert finish is FinishReason.STOP
    assert scheduler.n_running == 0


def test_a_lookup_goes_on_as_the_text_did_and_repeats_what_repeats_to_the_end() -> None:
    text = Lookup()
    text.extend([1, 2, 3, 4, 5, 6, 9])
    draft = text.guess([7, 7, 2, 3, 4], 2)
    assert draft is not None
    assert (draft.tokens, draft.n_matched) == ([5, 6], 3)
    text.extend([8, 7, 8, 7, 8, 7])
    circle = text.guess([9, 8, 7, 8, 7, 8, 7], 5)
    assert circle is not None
    assert circle.tokens == [8, 7, 8, 7, 8]
    assert text.guess([1, 2], 3) is None
    assert text.guess([5, 5, 5], 3) is None


def test_texts_that_were_finished_are_looked_at_after_the_own() -> None:
    library, own, other = Library(), Lookup(), Lookup()
    other.extend([1, 2, 3, 4, 5])
    library.add(other)
    own.extend([6, 6, 1, 2, 3])
    draft = library.guess(own, [6, 6, 1, 2, 3], 2)
    assert draft is not None
    assert draft.tokens == [4, 5]
    own.extend([9, 1, 2, 3])
    draft = library.guess(own, [9, 1, 2, 3], 1)
    assert draft is not None
    assert draft.tokens == [9]


def test_rates_follow_what_turns_out_right() -> None:
    rates = Rates()
    before = rates.rate(3)
    for _ in range(50):
        rates.note(3, 0, was_wrong=True)
        rates.note(20, 8, was_wrong=False)
    assert rates.rate(3) < 0.1 < before
    assert rates.rate(20) > 0.95
    assert (rates.n_right, rates.n_made) == (400, 450)


@pytest.mark.parametrize(("rate", "least", "most"), [(0.05, 0, 0), (0.5, 1, 4), (0.98, 8, 16)])
def test_as_many_guesses_as_are_worth_what_they_take(rate: float, least: int, most: int) -> None:
    assert least <= n_worth(rate, 16, lambda n_guesses: 0.020 + 0.001 * n_guesses) <= most
    # Where a token takes as long as a trip, guessing is computing for nothing.
    assert n_worth(rate, 16, lambda n_guesses: 0.010 * (1 + n_guesses)) == 0
