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
from worker.frames import Step
from worker.hop import Hop
from worker.results import Results
from worker.samplers import Samplers
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
        outlet: Hop | Results,
        whereabouts: Whereabouts,
    ) -> None:
        """The engine borrows all of these; `worker` is the name its timings carry."""
        self._worker = worker
        self._context = context
        self._samplers = samplers
        self._inbox = inbox
        self._outlet = outlet
        self._whereabouts = whereabouts
        self.n_started = 0
        self.n_finished = 0

    @property
    def is_computing(self) -> bool:
        """Whether a frame is being worked on; may be read from any thread."""
        return self.n_started != self.n_finished

    def run(self) -> bool:
        """Works until the inbox ends, or the outlet does: then False.

        Raises:
            NativeError: a step failed; the KV cache is out of step with the rest of the line.
            CallError: a KV operation that this model cannot do, or an outlet without a reader.
        """
        try:
            for step in self._inbox:
                started_ns = self._begin(step)
                self._apply_kv_operations(step.frame)
                self._apply_sampler_operations(step.frame)
                crossing = self._compute(step)
                rows = self._answer(step)
                timing = self._end(step, started_ns)
                if not self._hand_on(step, crossing, rows, timing):
                    return False
            return True
        finally:
            self._whereabouts.end()

    def _begin(self, step: Step) -> int:
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
        return self._context.step(step.batch, step.crossing)

    def _answer(self, step: Step) -> list[frame_pb2.RowResult]:
        """A row's result for each output that was asked for: none on any stage but the last."""
        answers = []
        for output in step.rows:
            answer = frame_pb2.RowResult(seq_id=step.frame.seq_ids[output.row])
            if output.logits:
                answer.logits = self._context.logits(output.row).tobytes()
            if output.sample:
                draft = step.frame.tokens[output.row] if output.draft else None
                self._samplers.answer(self._context, output.row, answer, draft)
            answers.append(answer)
        return answers

    def _end(self, step: Step, started_ns: int) -> frame_pb2.StageTiming:
        self.n_finished += 1
        self._whereabouts.end()
        return step.frame.timings.add(
            worker=self._worker,
            arrived_ns=step.arrived_ns,
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
            return self._outlet.put(result)
        # The message itself goes on: what every stage needs stays where it was parsed.
        del frame.crossing[:]
        frame.crossing.extend(encode_tensor(t.key, t.dtype, t.shape, t.data) for t in crossing)
        return self._outlet.put(step.request, timing)
