# SPDX-License-Identifier: MIT
"""The coordinator's two ends of a line: frames into the first stage, results out of the last. A thin gRPC client: it
translates, keeps no queue and decides nothing but whose failure it was when the line breaks. Used by the session, on
its event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import grpc
import grpc.aio

from coordinator.control import WorkerClient
from coordinator.errors import (
    CancelledError,
    CaravanError,
    SessionLostError,
    WorkerError,
    WorkerLostError,
    WorkerSilentError,
)
from coordinator.frames import CacheOperation, LineResult, PlannedFrame, Remove, SampledRow, Shift, StageTime, Start
from coordinator.statuses import Callee, Metadata, error_of_status, forgotten, lost, silent
from coordinator.workers import Health
from native import SamplingParams
from protos.caravan.v1 import frame_pb2, frame_pb2_grpc
from protos.channels import Channels
from protos.contract import (
    EPOCH_METADATA_KEY,
    SESSION_METADATA_KEY,
    channel_options,
    frame_limit_bytes,
)

_CONNECT_TIMEOUT_S = 20.0
"""For every stage to reach its next one; each allows itself less."""

_OTHER_END_GRACE_S = 1.0
"""When one stream breaks the other does too, and may know better why."""

_PROBE_TIMEOUT_S = 1.0
"""Health is answered at once also while a worker computes; and by now one of them is suspected."""

_TO_END = -1
"""Of a sequence, as the end of a span of positions."""

_SECONDARY = (WorkerLostError, SessionLostError, CancelledError)
"""What a stage may report only because another one failed."""

_Feed = grpc.aio.StreamUnaryCall[frame_pb2.FeedRequest, frame_pb2.FeedResponse]
_Collect = grpc.aio.UnaryStreamCall[frame_pb2.CollectRequest, frame_pb2.CollectResponse]


class LineBrokenError(Exception):
    """Internal: one of the two streams ended. `Line.diagnose` says why."""


_STREAM_ENDS = (LineBrokenError, grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError)
"""What grpc.aio raises from a stream that is over."""


@dataclass(frozen=True, slots=True)
class LineSpec:
    """What the streams of one epoch need to know.

    Attributes:
        stages: In line order, at least one.
        n_batch: Tokens of the largest frame.
        n_embd: Floats of a hidden state.
    """

    session_id: str
    epoch: int
    stages: tuple[Callee, ...]
    n_batch: int
    n_embd: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a line broke, and the names of workers that are not there any more."""

    reason: CaravanError
    gone: frozenset[str] = frozenset()

    @property
    def is_of_link(self) -> bool:
        """Whether a worker could not be talked to that is there all the same."""
        return isinstance(self.reason, WorkerLostError) and self.reason.worker not in self.gone


class Line:
    """The open streams of one epoch. Send from one task at a time, receive from one other."""

    def __init__(self, spec: LineSpec, channels: Channels) -> None:
        self._spec = spec
        self._metadata = grpc.aio.Metadata(
            (SESSION_METADATA_KEY, spec.session_id), (EPOCH_METADATA_KEY, str(spec.epoch))
        )
        options = channel_options(frame_limit_bytes(spec.n_batch, spec.n_embd))
        ends = (spec.stages[0], spec.stages[-1])
        self._channels = [channels.aio_channel(stage.address, options) for stage in ends]
        self._first, self._last = (frame_pb2_grpc.LineServiceStub(channel) for channel in self._channels)
        self._feed: _Feed | None = None
        self._collect: _Collect | None = None
        self._reason: CaravanError | None = None

    @classmethod
    async def open(cls, spec: LineSpec, clients: Sequence[WorkerClient]) -> Line:
        """Opens both streams and returns once every stage is connected to its next.

        Args:
            clients: The control side of every stage, in line order, to find out who is missing.

        Raises:
            CaravanError: Whose fault it is if that fails; nothing is left open.
        """
        line = cls(spec, clients[0].channels)
        try:
            await asyncio.wait_for(line._connect(), _CONNECT_TIMEOUT_S)
        except (asyncio.TimeoutError, *_STREAM_ENDS):
            diagnosis = await line.diagnose(clients)
            await line.close()
            raise diagnosis.reason from None
        except BaseException:
            await line.close()
            raise
        return line

    async def _connect(self) -> None:
        """Results first: the last stage takes no frame before somebody waits for its result."""
        collect = self._collect = self._last.Collect(frame_pb2.CollectRequest(), metadata=self._metadata)
        await collect.initial_metadata()
        if collect.done():
            raise LineBrokenError
        feed = self._feed = self._first.Feed(metadata=self._metadata)
        await feed.initial_metadata()
        if feed.done():
            raise LineBrokenError

    async def send(self, frame: PlannedFrame) -> None:
        """Sends a frame; returns when it may be followed by another.

        Raises:
            LineBrokenError: The stream has ended.
        """
        await self.send_message(encode_frame(frame, self._spec.session_id, self._spec.epoch))

    async def send_message(self, request: frame_pb2.FeedRequest) -> None:
        """As `send`, a frame as it travels."""
        assert self._feed is not None
        try:
            await self._feed.write(request)
        except _STREAM_ENDS:
            raise LineBrokenError from None

    async def call_void(self, numbers: Sequence[int]) -> None:
        """Tells the stages of frames whose results nobody wants; each drops those that it has not begun.

        Raises:
            LineBrokenError: The stream has ended.
        """
        assert self._feed is not None
        try:
            await self._feed.write(frame_pb2.FeedRequest(void_frames=frame_pb2.VoidFrames(numbers=numbers)))
        except _STREAM_ENDS:
            raise LineBrokenError from None

    async def receive(self) -> LineResult:
        """The next result.

        Raises:
            LineBrokenError: The stream has ended.
        """
        return decode_result(await self.receive_message())

    async def receive_message(self) -> frame_pb2.Result:
        """As `receive`, a result as it came."""
        assert self._collect is not None
        while True:
            try:
                response = await self._collect.read()
            except _STREAM_ENDS:
                raise LineBrokenError from None
            except asyncio.CancelledError:
                if self._reason is None:
                    raise
                raise LineBrokenError from None  # so grpc.aio tells who reads a stream that was cancelled here
            if not isinstance(response, frame_pb2.CollectResponse):
                raise LineBrokenError
            if response.result.epoch == self._spec.epoch:  # what is of another concerns nobody any more
                return response.result

    async def wait_until_fed(self) -> None:
        """Returns never while the line works: raises when the Feed ends, even if no result is awaited.

        Raises:
            LineBrokenError: The stream has ended.
        """
        assert self._feed is not None
        await self._feed.code()
        raise LineBrokenError

    def abandon(self, reason: CaravanError) -> None:
        """Breaks the line, for this reason: a stage is silent, while its streams stand."""
        if self._reason is None:
            self._reason = reason
            self._cancel()

    async def diagnose(self, clients: Sequence[WorkerClient]) -> Diagnosis:
        """Why the line broke: the error that names the culprit, not one that only felt it.

        A failure that a stage described counts most; else a stage that does not answer any more, or has forgotten the
        session; else what the Feed says, which stages pass on from the one that failed; else what the Collect says.

        Args:
            clients: The control side of every stage, in line order.
        """
        if isinstance(self._reason, WorkerSilentError):
            return Diagnosis(self._reason, frozenset((self._reason.worker,)))
        if self._reason is not None:
            return Diagnosis(self._reason)
        stages = self._spec.stages
        ends = asyncio.gather(_end_of(self._feed, stages[0]), _end_of(self._collect, stages[-1]))
        probes = asyncio.gather(*map(self._probe, stages, clients))
        said = [error for error in await ends if error is not None]
        probed = [error for error in await probes if error is not None]
        # One that is merely slow to answer may be asked again.
        gone = frozenset(error.worker for error in probed if type(error) is WorkerLostError)
        described = [error for error in said if not isinstance(error, _SECONDARY)]
        timed_out = lost(stages[0], f"the line did not stand after {_CONNECT_TIMEOUT_S:.0f} s")
        return Diagnosis([*described, *probed, *said, timed_out][0], gone)

    async def _probe(self, stage: Callee, client: WorkerClient) -> WorkerError | None:
        """What is wrong with a stage, if anything is."""
        try:
            health = await asyncio.wait_for(client.health(), _PROBE_TIMEOUT_S)
        except asyncio.TimeoutError:
            return silent(stage, _PROBE_TIMEOUT_S)
        except CaravanError:
            return lost(stage, "its part of the line is gone")
        return None if health == Health(self._spec.session_id, self._spec.epoch) else forgotten(stage)

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of the workers, in line order."""
        return tuple(stage.name for stage in self._spec.stages)

    async def finish(self) -> None:
        """Ends the streams in peace: returns when what is in flight was computed, while somebody receives. Then
        `close`.

        Raises:
            LineBrokenError: The stream has ended before.
        """
        assert self._feed is not None
        try:
            await self._feed.done_writing()
            await self._feed.code()
        except _STREAM_ENDS:
            raise LineBrokenError from None

    async def close(self) -> None:
        """Ends the streams as they are and closes the connections. Safe to repeat."""
        self._cancel()
        for channel in self._channels:
            await channel.close()

    def _cancel(self) -> None:
        for call in (self._feed, self._collect):
            if call is not None:
                call.cancel()


def encode_frame(frame: PlannedFrame, session_id: str, epoch: int) -> frame_pb2.FeedRequest:
    """The frame as it travels."""
    drafts = frozenset(frame.drafts)
    message = frame_pb2.Frame(
        session_id=session_id,
        epoch=epoch,
        number=frame.number,
        tokens=frame.tokens,
        positions=frame.positions,
        seq_ids=frame.seq_ids,
        outputs=[
            frame_pb2.OutputRow(row=row, embedding=True)
            if frame.is_embedding
            else frame_pb2.OutputRow(row=row, sample=True, draft=row in drafts)
            for row in frame.outputs
        ],
        follows=frame.follows,
        returns=frame.returns,
    )
    if frame.chained:
        message.chained.extend(frame.chained)
    message.kv_operations.extend(map(_kv_operation, frame.operations))
    for seq_id in frame.ends:
        message.sampler_operations.add(close=frame_pb2.SamplerClose(seq_id=seq_id))
    for start in frame.starts:
        message.sampler_operations.add(open=_sampler_open(start))
    return frame_pb2.FeedRequest(frame=message)


def _kv_operation(operation: CacheOperation) -> frame_pb2.KvOperation:
    if isinstance(operation, Remove):
        end = _TO_END if operation.end is None else operation.end
        return frame_pb2.KvOperation(remove=frame_pb2.KvRemove(seq_id=operation.seq_id, start=operation.start, end=end))
    if isinstance(operation, Shift):
        seq_id, start, delta = operation.seq_id, operation.start, operation.delta
        shift = frame_pb2.KvShift(seq_id=seq_id, start=start, end=_TO_END, delta=delta)
        return frame_pb2.KvOperation(shift=shift)
    source, target = operation.source, operation.target
    copy = frame_pb2.KvCopy(source_seq_id=source, target_seq_id=target, start=0, end=_TO_END)
    return frame_pb2.KvOperation(copy=copy)


def decode_result(result: frame_pb2.Result) -> LineResult:
    """A result as it came."""
    stages = tuple(map(_stage_time, result.timings))
    return LineResult(result.frame_number, [_sampled_row(row) for row in result.rows], stages, result.returns)


def _stage_time(timing: frame_pb2.StageTiming) -> StageTime:
    """A worker may say what it likes; nothing here is taken for more than a duration."""
    arrived, started, finished, sent = timing.arrived_ns, timing.started_ns, timing.finished_ns, timing.sent_ns
    held_s = max(0, sent - finished) / 1e9 if sent else 0.0
    waited_s, computed_s = max(0, started - arrived) / 1e9, max(0, finished - started) / 1e9
    return StageTime(waited_s, computed_s, held_s, timing.sent_bytes)


def _sampled_row(row: frame_pb2.RowResult) -> SampledRow:
    if not row.HasField("sampled"):
        return SampledRow(row.seq_id, None, error=row.error, embedding=row.embedding)
    sampled = row.sampled
    if not sampled.HasField("logprob"):
        return SampledRow(row.seq_id, sampled.token)
    top = tuple((entry.token, entry.logprob) for entry in sampled.top)
    return SampledRow(row.seq_id, sampled.token, sampled.logprob, top)


def _sampler_open(start: Start) -> frame_pb2.SamplerOpen:
    request = start.request
    return frame_pb2.SamplerOpen(
        seq_id=start.seq_id,
        params=_sampling(request.sampling),
        prompt_tokens=request.prompt,
        generated_tokens=start.generated,
    )


def _sampling(params: SamplingParams) -> frame_pb2.SamplingParams:
    return frame_pb2.SamplingParams(
        temperature=params.temperature,
        top_k=params.top_k,
        top_p=params.top_p,
        min_p=params.min_p,
        typical_p=params.typical_p,
        repeat_penalty=params.repeat_penalty,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        repeat_last_n=params.repeat_last_n,
        seed=params.seed,
        grammar=params.grammar,
        logit_bias=[frame_pb2.LogitBias(token=token, bias=bias) for token, bias in params.logit_bias],
        logprobs=params.logprobs,
        n_top_logprobs=params.n_top_logprobs,
        visible_tokens=params.visible_tokens,
    )


async def _end_of(call: _Feed | _Collect | None, callee: Callee) -> CaravanError | None:
    """What a stream ended with; None if it still runs, or ended well."""
    if call is None:
        return None
    try:
        status = await asyncio.wait_for(asyncio.shield(call.code()), _OTHER_END_GRACE_S)
    except asyncio.TimeoutError:
        return None
    if status is grpc.StatusCode.OK:
        return None
    metadata = cast("Metadata | None", await call.trailing_metadata())
    return error_of_status(status, await call.details() or "", metadata, callee)
