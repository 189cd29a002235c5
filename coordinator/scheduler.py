# SPDX-License-Identifier: MIT
"""What goes into the next frame: continuous batching as a state machine. Pure: events in (submit, end, result),
frames and outcomes out; no clock, no I/O. The session calls it on its event loop.

Each running request has a slot (`slots`), which is its sequence id in every stage's KV cache. A request's prompt goes
in chunks, one request per frame, that follow each other down the line without waiting: all stages work on it at once.
`pace` says how large they are best; up to twice the smallest size, and wherever there is one stage, a prompt is cut
only as llama.cpp itself would cut it, so that a request alone computes exactly what it would compute on one machine.

Sequences that have a token to decode go in lanes: so many decode frames in the line at a time as `pace` finds best,
each with the sequences of neighbouring slots, which llama.cpp computes together. A lane's next frame goes as soon as
its last one came back; no lane waits for another. Lanes are cut anew for every frame, by who runs then: they split,
merge and even out as requests come and go.

How long prefill can delay decode: while sequences decode, `pace` says how their frames and chunks take turns, so that
they get tokens little more than half as fast; a chunk is cut to what a stage computes in the time that this leaves.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from coordinator.context_shift import is_full, shift, text_after
from coordinator.frames import CacheOperation, Outcome, PlannedFrame, Remove, Request, SampledRow, Start
from coordinator.generation import FinishReason
from coordinator.offers import DraftContext, Offer
from coordinator.pace import Pace
from coordinator.sequence import Limits, Phase, RunningSequence
from coordinator.slots import Slots
from coordinator.speculation import Speculation
from coordinator.trials import Trials
from coordinator.turns import TurnTaking
from coordinator.waiting import Clients, WaitingRoom

_PREFILL_FRAMES_PER_STAGE = 2
"""One that the stage computes, one that it receives meanwhile."""


class LineOrderError(Exception):
    """A result that does not answer the oldest frame in flight: the line cannot be trusted any more."""


class _Kind(Enum):
    PREFILL = auto()
    DECODE = auto()
    AHEAD = auto()


@dataclass(slots=True)
class _InFlight:
    """A frame that was sent and not yet answered.

    Attributes:
        rows: Sequences whose tokens it samples, with the number of rows of each and its `n_wrong` when it was sent.
        lane: Of a decode frame.
    """

    number: int
    kind: _Kind
    rows: Sequence[tuple[RunningSequence, int, int]]
    lane: int = -1


class Scheduler:
    """The requests of one session and the frames in its line.

    Args:
        end_of_generation: Tokens that end a request.
        pace: Of the line; the session tells it what frames took.
        clients: Of all lines of the mesh.
    """

    def __init__(
        self,
        limits: Limits,
        end_of_generation: Iterable[int],
        pace: Pace | None = None,
        clients: Clients | None = None,
    ) -> None:
        self.limits = limits
        self.pace = pace or Pace(limits.n_stages)
        self._ends = frozenset(end_of_generation)
        self._sequences: dict[int, RunningSequence] = {}
        self._waiting = WaitingRoom(limits.n_waiting, Clients() if clients is None else clients)
        self._prefilling: deque[RunningSequence] = deque()
        self._trials = Trials()
        self._decoding: list[RunningSequence] = []  # by slot; without those that are paused
        self._slots = Slots(limits.n_slots, can_forget_part=limits.can_forget_part)
        self._operations: list[CacheOperation] = []
        self._ended_slots: list[int] = []
        self._draft_contexts: list[DraftContext] = []
        self._in_flight: deque[_InFlight] = deque()
        self._n_frames = 0
        self._n_chunks_in_flight = 0
        self._lanes_in_flight: set[int] = set()
        self._last_lane = 0
        self._turns = TurnTaking(limits, self.pace)
        self.n_prompt_tokens = 0
        self.n_reused_tokens = 0
        self.speculation = Speculation(limits, self.pace)

    @property
    def n_running(self) -> int:
        """Requests that have a slot."""
        return self.limits.n_slots - self._slots.n_free

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @property
    def n_in_flight(self) -> int:
        """Frames sent and not answered."""
        return len(self._in_flight)

    @property
    def running(self) -> list[RunningSequence]:
        """Requests that have a slot."""
        return [each for each in self._sequences.values() if each.phase is not Phase.WAITING]

    def submit(self, request: Request, generated: Sequence[int] = ()) -> None:
        """A new request; it waits if no slot is free.

        Args:
            generated: What was sampled of it before, by another coordinator: fewer tokens than it may have.

        Raises:
            OverloadedError: The queue is full; nothing has changed.
            ClientLimitError: Its client has as many requests as it may; nothing has changed.
            ValueError: A request that the session cannot hold, or an id that is in use.
        """
        n_prompt, n_ctx = len(request.prompt), self.limits.n_ctx
        if request.id in self._sequences or n_prompt < 1 or request.max_tokens < 1:
            raise ValueError(f"request {request.id} is empty or already there")
        if n_prompt + (1 if self.limits.shifts else request.max_tokens) > n_ctx:
            raise ValueError(f"{n_prompt} + {request.max_tokens} tokens do not go into a context of {n_ctx}")
        if len(generated) >= request.max_tokens:
            raise ValueError(f"request {request.id} has all of its {request.max_tokens} tokens")
        self._waiting.enter(request, is_slot_free=self._slots.n_free > 0)
        text = text_after(request, generated, n_ctx)
        self._sequences[request.id] = RunningSequence(request, text, generated)
        self._admit()

    def end(self, request_id: int) -> bool:
        """Ends a request for reasons of the caller's (cancelled, a stop string); its slot is free at once.

        Returns:
            Whether it was still there.
        """
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return False
        self._release(sequence)
        return True

    def pause(self, request_id: int) -> None:
        """Decodes no further tokens of a request, which keeps its slot; what is in the line still comes. Nothing
        happens if it has ended."""
        sequence = self._sequences.get(request_id)
        if sequence is not None and not sequence.is_paused:
            sequence.is_paused = True
            if sequence.phase is Phase.DECODE:
                self._decoding.remove(sequence)

    def resume(self, request_id: int) -> None:
        """Goes on with a paused request, from the token where it was. Nothing happens if it has ended."""
        sequence = self._sequences.get(request_id)
        if sequence is not None and sequence.is_paused:
            sequence.is_paused = False
            if sequence.phase is Phase.DECODE:
                bisect.insort(self._decoding, sequence, key=_slot_of)

    def close(self) -> list[int]:
        """Ends everything. Gives the ids of the requests that were still there."""
        ids = list(self._sequences)
        for request_id in ids:
            self.end(request_id)
        return ids

    def under_way(self) -> list[int]:
        """The requests that frames in the line may be of."""
        in_flight = {sequence.request.id for frame in self._in_flight for sequence, _, _ in frame.rows}
        prefilling = {sequence.request.id for sequence in self._sequences.values() if sequence.is_prefilling}
        return sorted((in_flight & self._sequences.keys()) | (prefilling if self._in_flight else set()))

    def restart(self, limits: Limits, pace: Pace, *, one_by_one: bool = False) -> None:
        """The line is another one, whose caches are empty: what was in flight is forgotten, and every sequence that has
        a slot is prefilled again and then goes on from its last token.

        Args:
            limits: As before, but for the stages.
            pace: Of the new line.
            one_by_one: Each only when the one before it has a token: one of them may be what breaks lines.
        """
        self.limits, self.pace = limits, pace
        self.speculation.restart(limits, pace)
        self._in_flight.clear()
        self._lanes_in_flight.clear()
        self._operations, self._ended_slots = [], []
        self._n_frames = self._n_chunks_in_flight = self._last_lane = 0
        self._turns = TurnTaking(limits, pace)
        self._slots.clear()
        running = self.running
        for sequence in running:
            sequence.restart(self._slots.tokens(sequence.slot))
        self._decoding.clear()
        running.sort(key=_slot_of)
        self._prefilling, self._trials = deque(() if one_by_one else running), Trials(running if one_by_one else ())

    def offer(self, offer: Offer) -> bool:
        """A draft model has guessed; whether there may be something to send."""
        sequence = self._sequences.get(offer.request_id)
        return sequence is not None and self.speculation.offer(sequence, offer)

    def take_draft_contexts(self) -> list[DraftContext]:
        """What the draft model is to be told, in order; each is given once."""
        contexts, self._draft_contexts = self._draft_contexts, []
        return contexts

    def end_offers(self) -> None:
        """There is no draft model any more: nothing waits for it."""
        self.speculation.has_draft_model = False

    def result(self, number: int, rows: Sequence[SampledRow]) -> list[Outcome]:
        """The line's answer to the oldest frame in flight.

        Returns:
            One outcome for each row whose request still runs.

        Raises:
            LineOrderError: It answers another frame, or other rows than asked for.
        """
        if not self._in_flight or self._in_flight[0].number != number:
            expected = self._in_flight[0].number if self._in_flight else "none"
            raise LineOrderError(f"the line answered frame {number} where {expected} was due")
        frame = self._in_flight.popleft()
        if len(rows) != sum(n_rows for _, n_rows, _ in frame.rows):
            raise LineOrderError(f"the line answered {len(rows)} rows of frame {number}, not those it was asked for")
        if frame.kind is _Kind.PREFILL:
            self._n_chunks_in_flight -= 1
        elif frame.kind is _Kind.DECODE:
            self._lanes_in_flight.discard(frame.lane)
        outcomes: list[Outcome] = []
        start = 0
        for sequence, n_rows, n_wrong in frame.rows:
            if sequence.phase is not Phase.ENDED and n_wrong == sequence.n_wrong:
                outcomes += self._rows(sequence, rows[start : start + n_rows])
            start += n_rows
        return outcomes

    def next_frame(self) -> PlannedFrame | None:
        """The frame to send now; None if there is nothing to do before a result or an event comes."""
        if self._trials:
            self._prefilling += self._trials.due()
        if self._decoding and (frame := self._decode_frame()) is not None:
            return frame
        if self._prefilling and self._may_prefill():
            return self._prefill_frame()
        if self.limits.n_drafts and self._decoding:
            return self._frame_ahead()
        return None

    # ---- rows and slots ----

    def _rows(self, sequence: RunningSequence, rows: Sequence[SampledRow]) -> list[Outcome]:
        """What one frame's rows mean for one sequence: up to the first that ends it, or shows a guess to be wrong."""
        outcomes = []
        n_wrong, n_text = sequence.n_wrong, len(sequence.text)
        for row in rows:
            outcome = self._row(sequence, row)
            outcomes.append(outcome)
            if sequence.phase is Phase.ENDED or sequence.n_wrong != n_wrong:
                break
        if sequence.phase is not Phase.ENDED:
            self._tell_draft_model(self.speculation.go_on(sequence, n_text))
        return outcomes

    def _tell_draft_model(self, context: DraftContext | None) -> None:
        if context is not None:
            self._draft_contexts.append(context)

    def _row(self, sequence: RunningSequence, row: SampledRow) -> Outcome:
        request = sequence.request
        if row.token is None:
            self._release(sequence)
            return Outcome(request.id, row, failed=row.error or "the last stage sampled no token")
        if row.token in self._ends:
            self._release(sequence)
            return Outcome(request.id, row, finish=FinishReason.STOP, is_end=True)
        was_guessed = self._append(sequence, row.token)
        if sequence.n_generated < request.max_tokens:
            return Outcome(request.id, row, was_guessed=was_guessed)
        self._release(sequence)
        return Outcome(request.id, row, finish=FinishReason.LENGTH, was_guessed=was_guessed)

    def _append(self, sequence: RunningSequence, token: int) -> bool:
        """A sampled token: whether it was guessed, and is in the line already; else it is one to send next."""
        position, cached = len(sequence.text), sequence.cached
        if sequence.phase is Phase.PREFILL:
            self._begin_decoding(sequence)
            self.speculation.begin(sequence)
        sequence.text.append(token)
        sequence.generated.append(token)
        self.speculation.note_token(sequence, token)
        if position < len(cached):
            is_right = cached[position] == token
            self.speculation.note_result(sequence, position, is_right=is_right)
            if is_right:
                return True
            # With the next frame, before anything that is sent from now on.
            del cached[position:]
            self._operations.append(Remove(sequence.slot, position))
            sequence.n_wrong += 1
        sequence.is_ready = True
        return False

    def _begin_decoding(self, sequence: RunningSequence) -> None:
        sequence.phase = Phase.DECODE
        if not sequence.is_paused:
            bisect.insort(self._decoding, sequence, key=_slot_of)

    def _admit(self) -> None:
        while self._waiting and self._slots.n_free:
            sequence = self._sequences[self._waiting.take().id]
            prompt = sequence.request.prompt
            place = self._slots.take(prompt, reuse=sequence.request.reuse)
            # With the next frame, whichever that is: slots are said to hold what the frames sent so far make of them.
            self._operations += place.operations
            sequence.slot, sequence.n_reused = place.slot, place.n_reused
            sequence.cached = self._slots.tokens(place.slot)
            sequence.phase = Phase.PREFILL
            (self._trials or self._prefilling).append(sequence)
            self._tell_draft_model(self.speculation.admit(sequence))

    def _release(self, sequence: RunningSequence) -> None:
        """Ends a sequence wherever it is. Frames of it that are in flight are answered for nobody; they come before
        whatever its slot is used for next, so the slot can be given away already."""
        del self._sequences[sequence.request.id]
        self._waiting.leave(sequence.request)
        if sequence.phase is not Phase.WAITING:
            if sequence.phase is Phase.DECODE:
                if not sequence.is_paused:
                    self._decoding.remove(sequence)
            elif sequence in self._prefilling:
                self._prefilling.remove(sequence)
            if sequence.n_chunk:
                self._ended_slots.append(sequence.slot)
            self._slots.give_back(sequence.slot, min(len(sequence.cached), len(sequence.text)))
            self._tell_draft_model(self.speculation.end(sequence))
        sequence.phase = Phase.ENDED
        self._admit()

    # ---- decode ----

    def _decode_frame(self) -> PlannedFrame | None:
        """The next frame of a lane that has none in the line, if one of its sequences has a token."""
        n_decoding = len(self._decoding)
        n_lanes = self._turns.n_lanes(n_decoding, self._prefilling)
        for offset in range(1, n_lanes + 1):
            lane = (self._last_lane + offset) % n_lanes
            if lane in self._lanes_in_flight:
                continue
            members = self._decoding[lane * n_decoding // n_lanes : (lane + 1) * n_decoding // n_lanes]
            rows = [each for each in members if each.is_ready and not self.speculation.waits(each)]
            if rows:
                self._make_room(rows)
                return self._frame_of_lane(lane, rows)
        return None

    def _make_room(self, rows: Sequence[RunningSequence]) -> None:
        """Takes tokens out of contexts that are full, with the next frame."""
        for sequence in rows:
            if self.limits.shifts and is_full(sequence, self.limits.n_ctx):
                self._operations += shift(sequence)
                self._slots.note_shift(sequence.slot, sequence.request.n_keep)
                self._tell_draft_model(self.speculation.note_shift(sequence))

    def _frame_of_lane(self, lane: int, rows: Sequence[RunningSequence]) -> PlannedFrame:
        frame = self._new_frame()
        n_lanes = self._turns.n_lanes(len(self._decoding), self._prefilling)
        drafts = self.speculation.drafts(rows, n_lanes)
        for number, sequence in enumerate(rows):
            tokens = [sequence.text[-1]]
            if drafts is not None:
                self.speculation.note_sent(sequence, drafts[number])
                tokens += drafts[number].tokens
            self._add_tokens(frame, sequence, tokens, n_sure=1)
            sequence.is_ready = False
        self._lanes_in_flight.add(lane)
        self._last_lane = lane
        self._turns.note_lane(len(self._decoding), self._prefilling)
        n_rows = len(frame.tokens) // len(rows)
        in_flight = [(sequence, n_rows, sequence.n_wrong) for sequence in rows]
        self._in_flight.append(_InFlight(frame.number, _Kind.DECODE, in_flight, lane))
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

    def _frame_ahead(self) -> PlannedFrame | None:
        """Guesses of a sequence whose last tokens are still in the line, where stages would be idle otherwise."""
        if len(self._decoding) >= self.pace.n_frames_in_line(1):
            return None
        for sequence in self._decoding:
            draft = None if sequence.is_ready else self.speculation.ahead(sequence)
            if draft is not None and len(self._in_flight) < self.pace.n_frames_in_line(len(draft.tokens)):
                frame = self._new_frame()
                self.speculation.note_sent(sequence, draft)
                self._add_tokens(frame, sequence, draft.tokens, n_sure=0)
                rows = [(sequence, len(draft.tokens), sequence.n_wrong)]
                self._in_flight.append(_InFlight(frame.number, _Kind.AHEAD, rows))
                return frame
        return None

    # ---- prefill ----

    def _may_prefill(self) -> bool:
        if not self._turns.is_chunk_due(len(self._decoding)):
            return False
        return self._n_chunks_in_flight < _PREFILL_FRAMES_PER_STAGE * self.limits.n_stages

    def _prefill_frame(self) -> PlannedFrame:
        sequence = self._prefilling.popleft()
        text, cached = sequence.to_prefill, sequence.cached
        start = len(cached)
        frame = self._new_frame()
        if not sequence.n_chunk:
            frame.starts.append(self._start_of(sequence))
        chunk = text[start : start + self._turns.n_chunk(sequence, len(text), len(self._decoding))]
        end = start + len(chunk)
        frame.tokens = list(chunk)
        frame.positions = list(range(start, end))
        frame.seq_ids = [sequence.slot] * len(chunk)
        cached += chunk
        self._turns.note_chunk()
        self._n_chunks_in_flight += 1
        rows: Sequence[tuple[RunningSequence, int, int]] = ()
        if end < len(text):
            # The next prompt's turn: a short one is not kept waiting by all of a long one.
            self._prefilling.append(sequence)
        elif sequence.n_generated:
            if sequence.lookup is None:
                self.speculation.begin(sequence)
            # Its last token follows as any other does.
            sequence.is_ready = True
            self._begin_decoding(sequence)
        else:
            frame.outputs = [len(chunk) - 1]
            rows = ((sequence, 1, 0),)
        self._in_flight.append(_InFlight(frame.number, _Kind.PREFILL, rows))
        return frame

    def _start_of(self, sequence: RunningSequence) -> Start:
        if not sequence.is_resumed:
            self.n_prompt_tokens += len(sequence.request.prompt)
            self.n_reused_tokens += sequence.n_reused
        return Start(sequence.slot, sequence.request, sequence.n_reused, tuple(sequence.generated))

    def _new_frame(self) -> PlannedFrame:
        self._n_frames += 1
        frame = PlannedFrame(self._n_frames, operations=self._operations, ends=self._ended_slots)
        self._operations, self._ended_slots = [], []
        return frame


def _slot_of(sequence: RunningSequence) -> int:
    return sequence.slot
