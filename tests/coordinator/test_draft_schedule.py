# SPDX-License-Identifier: MIT
"""What a draft model on a worker is sent: whenever the texts go on and results come, its guesses are those that it
would make after the text as it is, and all that are wanted come."""

import random
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.draft_schedule import DraftSchedule
from coordinator.frames import PlannedFrame, Remove, SampledRow
from coordinator.offers import DraftContext, Offer, Offers

_N_VOCAB = 7
_N_BATCH = 6


def _guess(text: list[int]) -> int:
    """One in ten is a token that the line's model does not know."""
    token = (text[-1] * 5 + len(text) * 3 + text[0]) % 10
    return _N_VOCAB if token > _N_VOCAB else token


class _Worker:
    """Computes frames as a worker does that holds a draft model; drops some of those that are void."""

    def __init__(self, n_slots: int, chance: random.Random) -> None:
        self.in_flight: deque[PlannedFrame] = deque()
        self.n_dropped = 0
        self._chance = chance
        self._caches: list[list[int]] = [[] for _ in range(n_slots)]
        self._last: dict[int, int] = {}
        self._voids: set[int] = set()
        self._n_begun = 0

    def hear(self, schedule: DraftSchedule) -> None:
        # What was begun goes its way.
        n_begun = [frame.number for frame in self.in_flight if frame.number > self._n_begun]
        self._n_begun = self._chance.choice([self._n_begun, *n_begun])
        self._voids.update(number for number in schedule.take_voids() if number > self._n_begun)

    def answer(self) -> tuple[int, list[SampledRow]]:
        frame = self.in_flight.popleft()
        self._n_begun = max(self._n_begun, frame.number)
        for operation in frame.operations:
            assert isinstance(operation, Remove)
            del self._caches[operation.seq_id][operation.start :]
        if frame.number in self._voids:
            self.n_dropped += 1
            return frame.number, []
        rows = []
        for row, (token, position, slot) in enumerate(zip(frame.tokens, frame.positions, frame.seq_ids, strict=True)):
            cache = self._caches[slot]
            assert position == len(cache), "llama.cpp refuses positions that leave a gap"
            cache.append(self._last[slot] if row in frame.chained else token)
            if row in frame.outputs:
                self._last[slot] = _guess(cache)
                rows.append(SampledRow(slot, self._last[slot]))
        return frame.number, rows


class _Sequence:
    """A text that goes on as guessed, or not, and what was offered for it."""

    def __init__(self, request_id: int, slot: int, prompt: list[int]) -> None:
        self.request_id = request_id
        self.slot = slot
        self.text = prompt
        self.offers = Offers(len(prompt))
        self.n_told = 0

    def wanted(self, n_ahead: int) -> list[int]:
        """What a draft model offers that is told all of the text."""
        text = list(self.text)
        while len(text) < len(self.text) + n_ahead and (token := _guess(text)) < _N_VOCAB:
            text.append(token)
        return text[len(self.text) :]

    def grow(self, tokens: list[int]) -> None:
        for token in tokens:
            self.text.append(token)
            self.offers.note(len(self.text) - 1, token)

    def context(self, n_ahead: int) -> DraftContext:
        start, self.n_told = self.n_told, len(self.text)
        return DraftContext(self.slot, self.request_id, start, tuple(self.text[start:]), len(self.text) + n_ahead)


@settings(max_examples=300)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 9999))
def test_whenever_texts_go_on_the_guesses_are_those_after_the_text_as_it_is(
    n_slots: int, n_ahead: int, seed: int
) -> None:
    chance = random.Random(seed)
    schedule, worker = DraftSchedule(n_slots, _N_BATCH, _N_VOCAB), _Worker(n_slots, chance)
    sequences: list[_Sequence | None] = [None] * n_slots
    by_id: dict[int, _Sequence] = {}

    def send() -> None:
        worker.hear(schedule)
        while (frame := schedule.next_frame()) is not None:
            assert len(frame.tokens) <= _N_BATCH
            worker.in_flight.append(frame)

    def answer() -> None:
        number, rows = worker.answer()
        for offer in schedule.result(number, rows, 0.001):
            _check(offer, by_id)
        send()

    for request_id in range(60):
        slot = chance.randrange(n_slots)
        sequence = sequences[slot]
        if sequence is None or chance.random() < 0.1:
            # Another request, whose prompt may begin like the one before.
            before = [] if sequence is None else sequence.text[: chance.randrange(8)]
            prompt = [*before, *(chance.randrange(_N_VOCAB) for _ in range(chance.randrange(1, 9)))]
            sequence = sequences[slot] = by_id[request_id] = _Sequence(request_id, slot, prompt)
        else:
            n_right = chance.randrange(n_ahead + 1)
            others = [chance.randrange(_N_VOCAB) for _ in range(chance.randrange(2))]
            sequence.grow(sequence.wanted(n_right) + others)
        schedule.tell([sequence.context(n_ahead)])
        send()
        for _ in range(chance.randrange(4)):
            if worker.in_flight:
                answer()
    while worker.in_flight:
        answer()
    for sequence in filter(None, sequences):
        assert sequence.offers.after(len(sequence.text), 99) == sequence.wanted(n_ahead)


def _check(offer: Offer, by_id: dict[int, _Sequence]) -> None:
    sequence = by_id[offer.request_id]
    sequence.offers.add(offer, sequence.text)
    known = sequence.text[: offer.n_known]
    assert _after(known, offer.start) == list(offer.tokens)


def _after(known: list[int], position: int) -> list[int]:
    text = list(known)
    while len(text) <= position:
        text.append(_guess(text))
    return text[position:]


def test_a_draft_goes_without_waiting_for_its_tokens_and_what_a_wrong_guess_made_void_is_called_so() -> None:
    schedule = DraftSchedule(1, _N_BATCH, _N_VOCAB)
    schedule.tell([DraftContext(0, 1, 0, (1, 2, 3), 7)])
    frames = []
    while (frame := schedule.next_frame()) is not None:
        frames.append(frame)
    assert [frame.positions for frame in frames] == [[0, 1, 2], [3], [4], [5]]
    assert [list(frame.chained) for frame in frames] == [[], [0], [0], [0]]
    offers = schedule.result(1, [SampledRow(0, 4)], 0.002)
    assert [(offer.n_known, offer.start, offer.tokens) for offer in offers] == [(3, 3, (4,))]
    schedule.tell([DraftContext(0, 1, 3, (5,), 8)])
    assert sorted(schedule.take_voids()) == [2, 3, 4]
    frame = schedule.next_frame()
    assert frame is not None
    assert (frame.tokens, frame.positions, frame.operations) == ([5], [3], [Remove(0, 3)])
