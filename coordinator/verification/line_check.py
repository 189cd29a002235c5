# SPDX-License-Identifier: MIT
"""The exercise on a line that is loaded: from its first stage on, or from any other, which is fed with the reference's
hidden states as if the stage before had sent them. Each time is an epoch of its own. On the event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coordinator.confirming import PlanOrder
from coordinator.connecting import line_spec
from coordinator.events import ignore
from coordinator.frames import PlannedFrame, Remove, Request, Start
from coordinator.line import Line, LineBrokenError, encode_frame
from coordinator.loading import LoadedLine, load_stages_over
from coordinator.verification.comparison import Logits
from coordinator.verification.exercise import ExerciseStep
from coordinator.verification.reference import Crossing
from native import SamplingParams
from protos.caravan.v1 import frame_pb2
from protos.codec import encode_tensor

_SEQUENCE = 0
_GREEDY = SamplingParams(temperature=0)


@dataclass(frozen=True, slots=True)
class LineOutputs:
    """What came of the exercise.

    Attributes:
        logits: Of each step.
        tokens: That the last worker sampled greedily, of each row of each step.
    """

    logits: list[Logits]
    tokens: list[list[int]]

    @property
    def n_missampled(self) -> int:
        """Rows whose token is not the likeliest by their own logits."""
        pairs = zip(self.logits, self.tokens, strict=True)
        return sum(int((rows.argmax(axis=1) != np.array(tokens)).sum()) for rows, tokens in pairs)


class LineCheck:
    """One line, loaded with epoch 1, that nobody else uses."""

    def __init__(self, order: PlanOrder, loaded: LoadedLine) -> None:
        self._order = order
        self._loaded = loaded
        self._epoch = 1
        self._is_fresh = True

    async def run(
        self,
        first: int,
        steps: Sequence[ExerciseStep],
        crossing: Sequence[Crossing] | None,
        on_step: Callable[[float], None],
    ) -> LineOutputs:
        """The exercise from this stage on.

        Args:
            crossing: What it is fed with beside the tokens, of each step; None: nothing, it is the first of all.
            on_step: Told how much is done, 0 to 1.

        Raises:
            CaravanError: The line broke, and whose fault that was.
        """
        await self._begin_epoch()
        outputs = LineOutputs([], [])
        async with self._standing(first) as line:
            for number, step in enumerate(steps):
                request = self._request(number + 1, step, () if crossing is None else crossing[number])
                await line.send_message(request)
                result = await line.receive_message()
                outputs.logits.append(np.stack([np.frombuffer(row.logits, np.float32) for row in result.rows]))
                outputs.tokens.append([row.sampled.token for row in result.rows])
                on_step((number + 1) / len(steps))
        return outputs

    async def _begin_epoch(self) -> None:
        """Every stage forgets what it computed; what is loaded stays."""
        if not self._is_fresh:
            self._epoch += 1
            loaded = self._loaded
            await load_stages_over(
                self._order, loaded.plan, session_id=loaded.session_id, epoch=self._epoch, on_progress=ignore
            )
        self._is_fresh = False

    @contextlib.asynccontextmanager
    async def _standing(self, first: int) -> AsyncIterator[Line]:
        """The streams of the stages from that one on."""
        clients = self._loaded.clients[first:]
        line = await Line.open(line_spec(self._order.model, self._loaded, self._epoch, first), clients)
        try:
            yield line
        except LineBrokenError:
            raise (await line.diagnose(clients)).reason from None
        finally:
            await line.close()

    def _request(self, number: int, step: ExerciseStep, crossing: Crossing) -> frame_pb2.FeedRequest:
        """A frame as a session would send it, with logits wanted too, and what the stage before would have added."""
        frame = PlannedFrame(
            number,
            tokens=list(step.tokens),
            positions=list(step.positions),
            seq_ids=[_SEQUENCE] * len(step.tokens),
            outputs=list(step.rows),
        )
        if step.begins_text:
            frame.operations.append(Remove(_SEQUENCE))
            frame.starts.append(Start(_SEQUENCE, Request(number, step.tokens, 1, _GREEDY)))
        request = encode_frame(frame, self._loaded.session_id, self._epoch)
        for output in request.frame.outputs:
            output.logits = True
        request.frame.crossing.extend(encode_tensor(each.key, each.dtype, each.shape, each.data) for each in crossing)
        return request
