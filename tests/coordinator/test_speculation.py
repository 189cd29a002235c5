# SPDX-License-Identifier: MIT
"""Guessing: whatever is guessed, right or wrong, the tokens are those that come without it; and where texts repeat,
fewer trips bring them."""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.drafting import Library, Lookup, Rates, n_worth
from coordinator.frames import Copy, Outcome, PlannedFrame, Remove, Request, SampledRow, Shift
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
    """A line that samples what a rule says of the text so far; its last stage passes over drafts as a worker's does,
    and each drops the frames that are void and that it has not begun."""

    def __init__(self, limits: Limits, *, repeats: int, seed: int) -> None:
        self._chance = random.Random(seed)
        self._table = [self._chance.randrange(1, 6) for _ in range(repeats)]
        self._surprises = {self._chance.randrange(8, 200): self._chance.randrange(1, 6) for _ in range(repeats % 5)}
        self._n_slots = limits.n_slots
        self.begin_line(limits.n_stages)
        self.n_dropped = 0
        self.n_trips = 0

    def next_token(self, text: list[int]) -> int:
        """Repeats itself, but for some surprises."""
        return self._surprises.get(len(text), self._table[(len(text) + text[0]) % len(self._table)])

    def begin_line(self, n_stages: int) -> None:
        """One with empty caches; all that is in the one before is lost."""
        self.in_flight: deque[PlannedFrame] = deque()
        self._last: dict[int, int] = {}
        self._n_computing: dict[int, int] = {}
        self.stages: list[dict[int, list[int]]] = [{slot: [] for slot in range(self._n_slots)} for _ in range(n_stages)]

    def hear(self, voids: Sequence[int]) -> None:
        """These are void: the sooner one was sent, the more stages have begun it."""
        n_most = len(self.stages)
        for number in sorted(voids):
            assert number not in self._n_computing
            n_most = self._n_computing[number] = self._chance.randrange(n_most + 1)

    def answer(self) -> tuple[int, list[SampledRow]]:
        frame = self.in_flight.popleft()
        self.n_trips += 1
        n_computing = self._n_computing.pop(frame.number, len(self.stages))
        for stage, caches in enumerate(self.stages):
            self._pass_through(frame, caches, is_computed=stage < n_computing)
        if n_computing < len(self.stages):
            self.n_dropped += 1
            return frame.number, []
        rows = []
        for row in frame.outputs:
            token, seq_id = frame.tokens[row], frame.seq_ids[row]
            cache = self.stages[-1][seq_id][: frame.positions[row] + 1]
            last = self._last.pop(seq_id, None)
            if row in frame.drafts and token != last:
                rows.append(SampledRow(seq_id, None))
                continue
            self._last[seq_id] = self.next_token(cache)
            rows.append(SampledRow(seq_id, self._last[seq_id]))
        return frame.number, rows

    def _pass_through(self, frame: PlannedFrame, caches: dict[int, list[int]], *, is_computed: bool) -> None:
        for operation in frame.operations:
            assert not isinstance(operation, Shift)
            if isinstance(operation, Remove):
                del caches[operation.seq_id][operation.start :]
            else:
                caches[operation.target] = list(caches[operation.source])
        if is_computed:
            for token, position, seq_id in zip(frame.tokens, frame.positions, frame.seq_ids, strict=True):
                assert position == len(caches[seq_id])
                assert caches[seq_id] == self.stages[0][seq_id][:position], "a stage before holds another text"
                caches[seq_id].append(token)


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
    limits: Limits,
    requests: list[Request],
    *,
    repeats: int,
    seed: int,
    n_offers: int = 0,
    breaks: float = 0.0,
    ends: float = 0.0,
) -> tuple[dict[int, list[int]], int]:
    """What each request gets, and the trips it took; with up to so many offers before each result.

    Args:
        breaks: How likely the line breaks before each result, and another carries on.
        ends: How likely a request is called off before each result.
    """
    scheduler = Scheduler(limits, [_END], _pace(limits.n_stages))
    model = _Model(limits, repeats=repeats, seed=seed)
    drafts, chance = _DraftModel(model, seed), random.Random(seed)
    texts: dict[int, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        scheduler.submit(request)
    while True:
        model.hear(scheduler.take_voids())
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
            model.begin_line(n_stages)
            continue
        if chance.random() < ends:
            scheduler.end(chance.choice(requests).id)
            model.hear(scheduler.take_voids())
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
def test_whoever_is_called_off_among_guesses_the_others_get_theirs_and_it_gets_the_beginning(
    n_requests: int, max_tokens: int, repeats: int, seed: int, has_draft_model: bool
) -> None:
    limits = replace(_LIMITS, has_draft_model=has_draft_model)
    requests = _requests(n_requests, max_tokens)
    n_offers = 2 if has_draft_model else 0
    some, _ = _texts(limits, requests, repeats=repeats, seed=seed, n_offers=n_offers, ends=0.05)
    whole, _ = _texts(replace(limits, n_drafts=0), requests, repeats=repeats, seed=seed)
    assert all(text == whole[request_id][: len(text)] for request_id, text in some.items())


def _with_a_wrong_guess_in_the_line(meanwhile: Sequence[Request] = ()) -> tuple[Scheduler, _Model, list[int]]:
    """A text that has repeated itself for a while and now is about to surprise; the frames of guesses in the line."""
    scheduler = Scheduler(replace(_LIMITS, n_drafts=3, n_slots=3), [_END], _pace(3))
    model = _Model(replace(_LIMITS, n_slots=3), repeats=5, seed=2)
    scheduler.submit(_requests(1, 200)[0])
    while len(model.in_flight) < 3 or not all(frame.drafts for frame in model.in_flight):
        while (frame := scheduler.next_frame()) is not None:
            model.in_flight.append(frame)
        if len(model.in_flight) < 3:
            scheduler.result(*model.answer())
    for request in meanwhile:
        scheduler.submit(request)
    while (frame := scheduler.next_frame()) is not None:
        model.in_flight.append(frame)
    ahead = [frame.number for frame in list(model.in_flight)[1:] if frame.is_decode]
    number, rows = model.answer()
    rows[-1].token = 6
    scheduler.result(number, rows)
    return scheduler, model, ahead


def test_after_a_wrong_guess_the_stages_are_told_once_what_is_void() -> None:
    scheduler, _, ahead = _with_a_wrong_guess_in_the_line()
    assert len(ahead) >= 2
    assert sorted(scheduler.take_voids()) == ahead
    assert not scheduler.take_voids()


def test_guesses_that_another_request_has_copied_are_not_void() -> None:
    scheduler, model, _ = _with_a_wrong_guess_in_the_line()
    # All but the surprise, and what was guessed in its place.
    guessed = scheduler.running[0].text[:-1] + model.in_flight[0].tokens
    copied = Request(9, (*guessed, 5), 1, SamplingParams())
    scheduler, model, ahead = _with_a_wrong_guess_in_the_line([copied])
    assert not set(ahead) & set(scheduler.take_voids())
    while (frame := scheduler.next_frame()) is not None:
        model.in_flight.append(frame)
    assert any(isinstance(each, Copy) for frame in model.in_flight for each in frame.operations)


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


def test_guesses_go_ahead_of_the_results_of_those_before_them_and_all_are_counted() -> None:
    scheduler = Scheduler(replace(_LIMITS, n_drafts=3), [_END], _pace(3))
    model = _Model(_LIMITS, repeats=5, seed=2)
    scheduler.submit(_requests(1, 200)[0])
    most = n_sent = 0
    outcomes: list[Outcome] = []
    while (frame := scheduler.next_frame()) is not None or model.in_flight:
        if frame is not None:
            model.in_flight.append(frame)
            most = max(most, sum(bool(other.drafts) for other in model.in_flight))
            n_sent += len(frame.drafts)
        else:
            outcomes += scheduler.result(*model.answer())
    assert most >= 3
    assert outcomes[-1].n_drafted == n_sent
    assert 0 < sum(outcome.was_guessed for outcome in outcomes) <= n_sent


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
