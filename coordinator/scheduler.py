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

What is to be embedded (`embedding`) takes turns with prompts, frame by frame, and so with what decodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from coordinator.context_shift import text_after
from coordinator.decoding import Decoding, slot_of
from coordinator.embedding import EmbeddingWork
from coordinator.frame_order import FrameInFlight, FrameKind, FrameOrder
from coordinator.frames import EmbeddingRequest, Outcome, PlannedFrame, Prefilled, Remove, Request, SampledRow, Start
from coordinator.generation import FinishReason
from coordinator.offers import DraftContext, Offer
from coordinator.pace import Pace
from coordinator.sequence import NOT_KNOWN, Limits, Phase, RunningSequence
from coordinator.slots import Slots
from coordinator.speculation import Speculation
from coordinator.trials import Trials
from coordinator.turns import TurnTaking
from coordinator.waiting import Clients, WaitingRoom

_PREFILL_FRAMES_PER_STAGE = 2
"""One that the stage computes, one that it receives meanwhile."""


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
        self._embeds_next = False
        self._waiting = WaitingRoom(limits.n_waiting, Clients() if clients is None else clients)
        self._prefilling: deque[RunningSequence] = deque()
        self._prefilled: list[Prefilled] = []
        self._trials = Trials()
        self._slots = Slots(limits.n_slots, can_forget_part=limits.can_forget_part)
        self._embeddings = EmbeddingWork(limits.embedding, self._slots)
        self.n_prompt_tokens = 0
        self.n_reused_tokens = 0
        self.speculation = Speculation(limits, self.pace)
        self._begin_line()

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
        return len(self._frames)

    @property
    def n_dropped(self) -> int:
        """Frames of this line that were void, and not computed by all stages."""
        return self._frames.n_dropped

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

    def submit_embedding(self, request: EmbeddingRequest) -> None:
        """As `submit`, for inputs to be embedded.

        Raises:
            OverloadedError, ClientLimitError: Nothing has changed.
        """
        self._waiting.enter(request, is_slot_free=self._slots.n_free > 0)
        self._embeddings.submit(request)
        self._admit()

    def end(self, request_id: int) -> bool:
        """Ends a request for reasons of the caller's (cancelled, a stop string); its slot is free at once.

        Returns:
            Whether it was still there.
        """
        if self._end_embedding(request_id):
            return True
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
                self._decoding.add(sequence)

    def close(self) -> list[int]:
        """Ends everything. Gives the ids of the requests that were still there."""
        ids = [*self._sequences, *self._embeddings.ids]
        for request_id in ids:
            self.end(request_id)
        return ids

    def under_way(self) -> list[int]:
        """The requests that frames in the line may be of."""
        prefilling = {sequence.request.id for sequence in self._sequences.values() if sequence.is_prefilling}
        there = self._sequences.keys() | self._embeddings.ids
        return sorted((self._frames.request_ids & there) | (prefilling if self._frames else set()))

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
        self._slots.clear()
        self._begin_line(one_by_one=one_by_one)
        running = self.running
        for sequence in running:
            sequence.restart(self._slots.tokens(sequence.slot))
        running.sort(key=slot_of)
        self._prefilling, self._trials = deque(() if one_by_one else running), Trials(running if one_by_one else ())

    def offer(self, offer: Offer) -> bool:
        """A draft model has guessed; whether there may be something to send."""
        sequence = self._sequences.get(offer.request_id)
        return sequence is not None and self.speculation.offer(sequence, offer)

    def take_prefilled(self) -> Sequence[Prefilled]:
        """How far prompts are whose requests tell that; each time that they came further is given once."""
        prefilled = self._prefilled
        if prefilled:
            self._prefilled = []
        return prefilled

    def take_voids(self) -> Sequence[int]:
        """Numbers of the frames in flight that stages are to be told are void; each is given once."""
        voids = self._frames.voids
        if voids:
            self._frames.voids = []
        return voids

    def take_draft_contexts(self) -> list[DraftContext]:
        """What the draft model is to be told, in order; each is given once."""
        return self.speculation.take_contexts()

    def end_offers(self) -> None:
        """There is no draft model any more: nothing waits for it."""
        self.speculation.has_draft_model = False

    def begin_offers(self) -> None:
        """There is one again, and it is to be told of all that run."""
        self.speculation.has_draft_model = True
        for sequence in self.running:
            self.speculation.admit(sequence)

    def result(self, number: int, rows: Sequence[SampledRow]) -> list[Outcome]:
        """The line's answer to the oldest frame in flight.

        Returns:
            One outcome for each row whose request still runs.

        Raises:
            LineOrderError: It answers another frame, or other rows than asked for.
        """
        frame = self._frames.answered(number, len(rows))
        if frame.prefilled is not None:
            self._prefilled.append(frame.prefilled)
        if frame.kind is FrameKind.EMBEDDING:
            return self._embedded(frame, rows)
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
        prompts = self._prefilling or self._embeddings.unsent
        if self._decoding and (frame := self._decoding.next_frame(prompts)) is not None:
            return frame
        if prompts and self._may_prefill() and (frame := self._prompt_frame()) is not None:
            return frame
        if self.limits.n_drafts:
            return self._decoding.frame_ahead()
        return self._decoding.frame_that_follows() if self.n_running == 1 and not prompts else None

    def note_returns(self) -> None:
        """Tokens can go straight from the last stage to the first one of this line."""
        self._decoding.can_return = True

    def _begin_line(self, *, one_by_one: bool = False) -> None:
        self._frames = FrameOrder()
        self._embeddings.begin_line(self._frames, one_by_one=one_by_one)
        self._turns = TurnTaking(self.limits, self.pace)
        self._decoding = Decoding(self.limits, self.pace, self._frames, self._turns, self._slots, self.speculation)

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
            self.speculation.go_on(sequence, n_text)
        return outcomes

    def _row(self, sequence: RunningSequence, row: SampledRow) -> Outcome:
        request = sequence.request
        if row.token is None:
            self._release(sequence)
            return Outcome(request.id, row, failed=row.error or "the last stage sampled no token")
        if row.token in self._ends:
            self._release(sequence)
            return Outcome(request.id, row, finish=FinishReason.STOP, is_end=True, n_drafted=sequence.n_drafted)
        was_guessed = self._append(sequence, row.token)
        outcome = Outcome(request.id, row, was_guessed=was_guessed, n_drafted=sequence.n_drafted)
        if sequence.n_generated >= request.max_tokens:
            self._release(sequence)
            outcome.finish = FinishReason.LENGTH
        return outcome

    def _append(self, sequence: RunningSequence, token: int) -> bool:
        """A sampled token: whether it was guessed. Unless it is in the line already, it is one to send next."""
        position, cached = len(sequence.text), sequence.cached
        if sequence.phase is Phase.PREFILL:
            self._begin_decoding(sequence)
            self.speculation.begin(sequence)
        sequence.text.append(token)
        sequence.generated.append(token)
        self.speculation.note_token(sequence, token)
        if position < len(cached) and cached[position] == NOT_KNOWN:
            cached[position] = token
            return False
        if position < len(cached):
            is_right = cached[position] == token
            self.speculation.note_result(sequence, position, is_right=is_right)
            if is_right:
                return True
            # With the next frame, before anything that is sent from now on.
            self._frames.void(sequence, position)
            del cached[position:]
            self._frames.operations.append(Remove(sequence.slot, position))
            sequence.n_wrong += 1
        sequence.is_ready = True
        return False

    def _begin_decoding(self, sequence: RunningSequence) -> None:
        sequence.phase = Phase.DECODE
        if not sequence.is_paused:
            self._decoding.add(sequence)

    def _admit(self) -> None:
        while self._waiting and self._slots.n_free:
            request = self._waiting.take()
            if isinstance(request, EmbeddingRequest):
                self.n_prompt_tokens += self._embeddings.admit(request)
                continue
            sequence = self._sequences[request.id]
            prompt = sequence.request.prompt
            place = self._slots.take(prompt, reuse=sequence.request.reuse)
            # With the next frame, whichever that is: slots are said to hold what the frames sent so far make of them.
            self._frames.operations += place.operations
            sequence.slot, sequence.n_reused = place.slot, place.n_reused
            sequence.cached = self._slots.tokens(place.slot)
            sequence.phase = Phase.PREFILL
            (self._trials or self._prefilling).append(sequence)
            self.speculation.admit(sequence)

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
                self._frames.ended_slots.append(sequence.slot)
            n_held = min(len(sequence.cached), len(sequence.text))
            self._frames.void(sequence, n_held)
            self._slots.give_back(sequence.slot, n_held)
            self.speculation.end(sequence)
        sequence.phase = Phase.ENDED
        self._admit()

    # ---- what is to be embedded ----

    def _embedded(self, frame: FrameInFlight, rows: Sequence[SampledRow]) -> list[Outcome]:
        outcomes = self._embeddings.result(frame, rows)
        for outcome in outcomes:
            if outcome.finish is not None or outcome.failed:
                self._end_embedding(outcome.request_id)
        return outcomes

    def _end_embedding(self, request_id: int) -> bool:
        request = self._embeddings.end(request_id)
        if request is None:
            return False
        self._waiting.leave(request)
        self._admit()
        return True

    # ---- prefill ----

    def _may_prefill(self) -> bool:
        if not self._turns.is_chunk_due(len(self._decoding)):
            return False
        return self._frames.n_chunks < _PREFILL_FRAMES_PER_STAGE * self.limits.n_stages

    def _prompt_frame(self) -> PlannedFrame | None:
        """A piece of a prompt or what is to be embedded, by turns where there are both."""
        if self._embeddings.is_due and (self._embeds_next or not self._prefilling):
            self._embeds_next = False
            first = self._embeddings.unsent[0]
            frame = self._embeddings.next_frame()
            self._turns.note_uncut(len(frame.tokens), len(self._decoding), first)
            return frame
        if not self._prefilling:
            return None
        self._embeds_next = True
        return self._prefill_frame()

    def _prefill_frame(self) -> PlannedFrame:
        sequence = self._prefilling.popleft()
        text, cached = sequence.to_prefill, sequence.cached
        start = len(cached)
        frame = self._frames.new()
        if not sequence.n_chunk:
            frame.starts.append(self._start_of(sequence))
        chunk = text[start : start + self._turns.n_chunk(sequence, len(text), len(self._decoding))]
        end = start + len(chunk)
        frame.tokens = list(chunk)
        frame.positions = list(range(start, end))
        frame.seq_ids = [sequence.slot] * len(chunk)
        cached += chunk
        self._turns.note_chunk()
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
        tells = sequence.request.tells_progress and not sequence.n_generated
        prefilled = Prefilled(sequence.request.id, end) if tells else None
        self._frames.sent(frame, FrameKind.PREFILL, rows, prefilled=prefilled)
        return frame

    def _start_of(self, sequence: RunningSequence) -> Start:
        if not sequence.is_resumed:
            self.n_prompt_tokens += len(sequence.request.prompt)
            self.n_reused_tokens += sequence.n_reused
        return Start(sequence.slot, sequence.request, sequence.n_reused, tuple(sequence.generated))
