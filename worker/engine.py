# SPDX-License-Identifier: MIT
"""The engine: what a stage does with one frame after another. Owns their order; runs on a thread of its own.

Its Feed starts it, fills its inbox and takes what it puts into the outlet: the hop to the next worker, or the
results. While llama.cpp computes, the interpreter is free for the threads that receive, send and answer for the
worker's health.
"""

import time
from collections.abc import Iterable, Sequence

from native import Context, CrossingTensor
from protos.caravan.v1 import frame_pb2
from protos.codec import encode_tensor
from worker.errors import BadFrameError
from worker.frames import Step, emptied
from worker.hop import Hop
from worker.results import Results
from worker.returning import ReturnedTokens, WayBack
from worker.samplers import Samplers
from worker.voids import Voids
from worker.whereabouts import Whereabouts


class Engine:
    """Runs the steps of one Feed through one context."""

    def __init__(
        self,
        *,
        worker: str,
        context: Context,
        samplers: Samplers,
        inbox: Iterable[Step],
        voids: Voids,
        outlet: Hop | Results,
        whereabouts: Whereabouts,
        returned: ReturnedTokens | None = None,
        way_back: WayBack | None = None,
    ) -> None:
        """The engine borrows all of these.

        Args:
            worker: the name its timings carry.
            returned: on the first of several stages.
            way_back: on the last of several, if it is told where the first one is.
        """
        self._worker = worker
        self._context = context
        self._samplers = samplers
        self._inbox = inbox
        self._voids = voids
        self._outlet = outlet
        self._whereabouts = whereabouts
        self._returned = returned
        self._way_back = way_back
        self.n_started = 0
        self.n_finished = 0
        # Whether a frame is being worked on or handed on; may be read from any thread.
        self.is_busy = False

    @property
    def is_computing(self) -> bool:
        """Whether a frame is being worked on; may be read from any thread."""
        return self.n_started != self.n_finished

    def run(self) -> bool:
        """Works until the inbox ends, or the outlet or what is returned does: then False.

        Raises:
            NativeError: a step failed; the KV cache is out of step with the rest of the line.
            CallError: a KV operation that this model cannot do, an outlet without a reader, or a frame that follows one
                that returned nothing.
        """
        try:
            voids = self._voids
            for came in self._inbox:
                step = emptied(came) if voids.numbers and voids.take(came.frame.number) else came
                arrived_ns = step.arrived_ns
                if self._returned is not None and step.frame.follows:
                    if not self._fill_in(step, self._returned):
                        return False
                    arrived_ns = max(arrived_ns, time.monotonic_ns())
                started_ns = self._begin(step)
                self._apply_kv_operations(step.frame)
                self._apply_sampler_operations(step.frame)
                crossing = self._compute(step)
                rows = self._answer(step)
                if self._way_back is not None and step.frame.returns:
                    self._return(step.frame.number, rows[0], self._way_back)
                timing = self._end(step, arrived_ns, started_ns)
                if not self._hand_on(step, crossing, rows, timing):
                    return False
                self.is_busy = False
            return True
        finally:
            self.is_busy = False
            self._whereabouts.end()

    def _fill_in(self, step: Step, returned: ReturnedTokens) -> bool:
        """Puts in the token that the step follows; False: none will come any more."""
        is_there, token = returned.take(step.frame.follows)
        if is_there and step.batch is not None and token is not None:
            step.frame.tokens[0] = token
            step.batch.tokens[0] = token
        return is_there

    def _begin(self, step: Step) -> int:
        self.is_busy = True
        self.n_started += 1
        self._whereabouts.begin(step)
        return time.monotonic_ns()

    def _apply_kv_operations(self, frame: frame_pb2.Frame) -> None:
        try:
            for operation in frame.kv_operations:
                self._apply_kv_operation(operation)
        except ValueError as error:
            raise BadFrameError(f"frame {frame.number}: {error}") from error

    def _apply_kv_operation(self, operation: frame_pb2.KvOperation) -> None:
        """Raises ValueError for what this model's memory cannot do."""
        context = self._context
        match operation.WhichOneof("operation"):
            case "remove":
                gone = operation.remove
                if not context.kv_remove(gone.seq_id, gone.start, gone.end):
                    raise ValueError(
                        f"sequence {gone.seq_id} can only be removed as a whole from this model's memory,"
                        f" not positions [{gone.start}, {gone.end})"
                    )
            case "copy":
                copy = operation.copy
                context.kv_copy(copy.source_seq_id, copy.target_seq_id, copy.start, copy.end)
            case "keep":
                context.kv_keep(operation.keep.seq_id)
            case "shift":
                shift = operation.shift
                context.kv_shift(shift.seq_id, shift.start, shift.end, shift.delta)

    def _apply_sampler_operations(self, frame: frame_pb2.Frame) -> None:
        if isinstance(self._outlet, Results):
            for operation in frame.sampler_operations:
                self._samplers.apply(operation)

    def _compute(self, step: Step) -> Sequence[CrossingTensor]:
        if step.batch is None:
            return ()
        for row in step.chained:
            step.batch.tokens[row] = self._chained_token(step.frame, row)
        return self._context.step(step.batch, step.crossing)

    def _chained_token(self, frame: frame_pb2.Frame, row: int) -> int:
        token = self._samplers.last_token(frame.seq_ids[row])
        if token is None:
            raise BadFrameError(
                f"row {row} of frame {frame.number} has the token that sequence {frame.seq_ids[row]} sampled: none yet"
            )
        return token

    def _answer(self, step: Step) -> list[frame_pb2.RowResult]:
        """A row's result for each output that was asked for: none on any stage but the last."""
        answers = []
        for output in step.rows:
            answer = frame_pb2.RowResult(seq_id=step.frame.seq_ids[output.row])
            if output.logits:
                answer.logits = self._context.logits(output.row).tobytes()
            if output.embedding:
                answer.embedding = self._context.embeddings(output.row, answer.seq_id).tobytes()
            if output.sample:
                draft = step.frame.tokens[output.row] if output.draft else None
                self._samplers.answer(self._context, output.row, answer, draft)
            answers.append(answer)
        return answers

    def _return(self, number: int, row: frame_pb2.RowResult, way_back: WayBack) -> None:
        way_back.put(number, row.sampled.token if row.HasField("sampled") else None)

    def _end(self, step: Step, arrived_ns: int, started_ns: int) -> frame_pb2.StageTiming:
        self.n_finished += 1
        self._whereabouts.end()
        return step.frame.timings.add(
            worker=self._worker,
            arrived_ns=arrived_ns,
            started_ns=started_ns,
            finished_ns=time.monotonic_ns(),
        )

    def _hand_on(
        self,
        step: Step,
        crossing: Sequence[CrossingTensor],
        rows: Sequence[frame_pb2.RowResult],
        timing: frame_pb2.StageTiming,
    ) -> bool:
        """The frame goes on with its new crossing tensors, or its result to the reader; False: nobody takes it."""
        frame = step.frame
        if isinstance(self._outlet, Results):
            result = frame_pb2.Result(
                session_id=frame.session_id,
                epoch=frame.epoch,
                frame_number=frame.number,
                rows=rows,
                timings=frame.timings,
            )
            if self._way_back is not None:
                result.returns = self._way_back.is_open
            return self._outlet.put(result)
        # The message itself goes on: what every stage needs stays where it was parsed.
        del frame.crossing[:]
        frame.crossing.extend(encode_tensor(t.key, t.dtype, t.shape, t.data) for t in crossing)
        timing.sent_bytes = sum(len(tensor.data) for tensor in frame.crossing)
        return self._outlet.put(step.request, timing)
