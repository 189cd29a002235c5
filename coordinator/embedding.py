# SPDX-License-Identifier: MIT
"""Texts that are to be embedded, and the frames that take them down the line: the part of a prompt's prefill, and at
its end a vector instead of a token. The scheduler's; pure.

Nothing is left of an input when its vector is there, so a request with many inputs has one slot, and its frames follow
each other without waiting: all stages work on it at once, and when a line breaks, what had no vector is sent again.

- A model without a cache (an encoder) computes a frame's inputs apart from each other, whichever they are: as many go
  together as fit, of all requests in turn.
- One with a cache has a sequence of it for each slot. A request's inputs go through its own one after another, alone
  in their frames: so a text has the vector that llama.cpp gives for it alone, whoever else asks for what. One that is
  longer than llama.cpp computes at once is cut as llama.cpp would cut it, where its pooling allows that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence, Set

from coordinator.frame_order import EmbeddedRows, FrameInFlight, FrameKind, FrameOrder
from coordinator.frames import Embedded, EmbeddingRequest, Outcome, PlannedFrame, Remove, SampledRow
from coordinator.generation import FinishReason
from coordinator.sequence import EmbeddingLimits, Phase
from coordinator.slots import Slots


class RunningEmbedding:
    """A request on its way.

    Attributes:
        cached: What its slot holds when all that was sent is computed; of a model without a cache nothing.
        left: Inputs without a vector, by their places.
        unsent: Those of them that are not sent in whole.
        n_sent: Tokens of the first of these that are.
        parts: Of inputs whose vectors come in several frames, those that came.
    """

    __slots__ = ("cached", "left", "n_sent", "parts", "phase", "request", "slot", "unsent")

    def __init__(self, request: EmbeddingRequest) -> None:
        self.request = request
        self.phase = Phase.WAITING
        self.slot = -1
        self.left = dict.fromkeys(range(len(request.inputs)))
        self.parts: dict[int, bytes] = {}
        self.restart([])

    def restart(self, cached: list[int]) -> None:
        """What has no vector is sent again.

        Args:
            cached: What its slot holds.
        """
        self.cached = cached
        self.unsent = deque(self.left)
        self.n_sent = 0
        self.parts.clear()

    @property
    def next_input(self) -> Sequence[int]:
        """Its tokens."""
        return self.request.inputs[self.unsent[0]]


class EmbeddingWork:
    """The requests of one session, waiting for a slot or with one. It has no line before `begin_line`.

    Args:
        limits: None: the session embeds nothing.
        slots: Of the session; so many inputs go in a frame at most.

    Attributes:
        unsent: Requests with a slot that have something to send, by turns.
    """

    def __init__(self, limits: EmbeddingLimits | None, slots: Slots) -> None:
        self._limits = limits
        self._slots = slots
        self._n_slots = slots.n_free
        self._requests: dict[int, RunningEmbedding] = {}

    @property
    def ids(self) -> Set[int]:
        """Of all requests."""
        return self._requests.keys()

    @property
    def is_due(self) -> bool:
        """Whether there is a frame to send, as far as these requests are concerned."""
        return bool(self.unsent) and not (self._is_one_by_one and self._frames.n_chunks)

    def begin_line(self, frames: FrameOrder, *, one_by_one: bool = False) -> None:
        """The line is another one, whose caches are empty: what has no vector is sent again.

        Args:
            frames: Of the line.
            one_by_one: One of them may be what breaks lines: a frame is of one request, and follows no other.
        """
        self._frames = frames
        self._is_one_by_one = one_by_one
        self.unsent = deque(request for request in self._requests.values() if request.phase is Phase.PREFILL)
        for request in self.unsent:
            request.restart(self._held_by(request.slot))

    def submit(self, request: EmbeddingRequest) -> None:
        """It waits for a slot."""
        self._requests[request.id] = RunningEmbedding(request)

    def admit(self, request: EmbeddingRequest) -> int:
        """It gets a slot (there is one); gives the number of its tokens."""
        running = self._requests[request.id]
        place = self._slots.take((), reuse=False)
        self._frames.operations += place.operations
        running.slot, running.phase = place.slot, Phase.PREFILL
        running.cached = self._held_by(place.slot)
        self.unsent.append(running)
        return sum(map(len, request.inputs))

    def end(self, request_id: int) -> EmbeddingRequest | None:
        """Ends a request, whose slot is free at once; None: it was not there."""
        running = self._requests.pop(request_id, None)
        if running is None:
            return None
        if running in self.unsent:
            self.unsent.remove(running)
        if running.phase is Phase.PREFILL:
            self._slots.give_back(running.slot, 0)
        running.phase = Phase.ENDED
        return running.request

    def next_frame(self) -> PlannedFrame:
        """The next one of the request whose turn it is; there is one to send."""
        assert self._limits is not None
        frame = self._together(self._limits) if self._limits.is_stateless else self._alone(self._limits)
        frame.is_embedding = True
        return frame

    def result(self, frame: FrameInFlight, rows: Sequence[SampledRow]) -> list[Outcome]:
        """What the line's answer means: an outcome for each input that has its vector, or will have none."""
        outcomes = []
        start = 0
        for of_input in frame.inputs:
            own = rows[start : start + of_input.n_rows]
            start += of_input.n_rows
            if of_input.request.phase is not Phase.ENDED and own:
                outcomes += self._outcomes(of_input, own)
        return outcomes

    def _held_by(self, slot: int) -> list[int]:
        """What a slot holds; that of a model without a cache holds nothing."""
        return [] if self._limits is None or self._limits.is_stateless else self._slots.tokens(slot)

    def _outcomes(self, of_input: EmbeddedRows, rows: Sequence[SampledRow]) -> list[Outcome]:
        request, index = of_input.request, of_input.index
        if not all(row.embedding for row in rows):
            failed = rows[-1].error or "the last stage made no embedding"
            return [Outcome(request.request.id, rows[-1], failed=failed)]
        vector = request.parts.pop(index, b"") + b"".join(row.embedding for row in rows)
        if not of_input.is_end:
            request.parts[index] = vector
            return []
        del request.left[index]
        finish = None if request.left else FinishReason.STOP
        return [Outcome(request.request.id, rows[-1], finish, embedded=Embedded(index, vector))]

    def _together(self, limits: EmbeddingLimits) -> PlannedFrame:
        """As many inputs as fit, of all requests in turn."""
        frame, inputs, first = self._frames.new(), list[EmbeddedRows](), self.unsent[0]
        while self.unsent and len(inputs) < self._n_slots:
            request = self.unsent[0]
            tokens = request.next_input
            is_full = len(frame.tokens) + len(tokens) > limits.n_frame
            if is_full or (self._is_one_by_one and request is not first):
                break
            self._add(frame, tokens, seq_id=len(inputs), start=0)
            inputs.append(self._asked(frame, request, len(tokens), is_end=True))
        self._frames.sent(frame, FrameKind.EMBEDDING, inputs=inputs)
        return frame

    def _alone(self, limits: EmbeddingLimits) -> PlannedFrame:
        """An input, or as much of it as llama.cpp computes at once."""
        request, start = self.unsent[0], self.unsent[0].n_sent
        if start == 0 and request.cached:
            request.cached.clear()
            self._frames.operations.append(Remove(request.slot))
        frame = self._frames.new()
        chunk = request.next_input[start : start + limits.n_frame]
        self._add(frame, chunk, seq_id=request.slot, start=start)
        request.cached += chunk
        is_end = start + len(chunk) == len(request.next_input)
        inputs = [self._asked(frame, request, len(chunk), is_end=is_end)]
        self._frames.sent(frame, FrameKind.EMBEDDING, inputs=inputs)
        return frame

    @staticmethod
    def _add(frame: PlannedFrame, tokens: Sequence[int], *, seq_id: int, start: int) -> None:
        frame.tokens += tokens
        frame.positions += range(start, start + len(tokens))
        frame.seq_ids += [seq_id] * len(tokens)

    def _asked(self, frame: PlannedFrame, request: RunningEmbedding, n_tokens: int, *, is_end: bool) -> EmbeddedRows:
        """The frame's last tokens are of the request's next input: asks for what is to be known of them, and lets the
        next request have its turn."""
        assert self._limits is not None
        n_rows = n_tokens if self._limits.of_each_token else int(is_end)
        frame.outputs += range(len(frame.tokens) - n_rows, len(frame.tokens))
        rows = EmbeddedRows(request, request.unsent[0], n_rows, is_end)
        request.n_sent += n_tokens
        if is_end:
            request.unsent.popleft()
            request.n_sent = 0
        self.unsent.popleft()
        if request.unsent:
            self.unsent.append(request)
        return rows
