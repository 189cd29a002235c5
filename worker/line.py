# SPDX-License-Identifier: MIT
"""LineService: opens the streams of what is held to the caller. Decides nothing.

Each open stream occupies one of gRPC's threads: a Feed's waits, a Collect's sends, a Return's reads.
"""

from collections.abc import Iterator

import grpc

from protos.caravan.v1 import frame_pb2, frame_pb2_grpc
from protos.contract import EPOCH_METADATA_KEY, SESSION_METADATA_KEY, is_session_id
from worker.answering import failures_answered
from worker.errors import BadRequestError
from worker.holdings import Holdings


class LineServicer(frame_pb2_grpc.LineServiceServicer):
    """The data plane of this worker."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def Feed(
        self, request_iterator: Iterator[frame_pb2.FeedRequest], context: grpc.ServicerContext
    ) -> frame_pb2.FeedResponse:
        """Frames into this stage; answers when all of them have gone through the rest of the line."""
        streams = self._holdings.streams(_session_of(context))
        with failures_answered(context, lambda: streams.culprit):
            session_id, epoch = _stream_of(context)
            with streams.open_feed(session_id, epoch) as feed:
                if not context.add_callback(feed.abandon):
                    feed.abandon()
                _say_connected(context, session_id, epoch)
                n_frames = feed.serve(request_iterator)
            return frame_pb2.FeedResponse(n_frames=n_frames)

    def Collect(
        self, request: frame_pb2.CollectRequest, context: grpc.ServicerContext
    ) -> Iterator[frame_pb2.CollectResponse]:
        """Results from this stage, the last of its line."""
        streams = self._holdings.streams(_session_of(context))
        with failures_answered(context, lambda: streams.culprit):
            session_id, epoch = _stream_of(context)
            results = streams.open_collect(session_id, epoch)
            try:
                if not context.add_callback(results.leave):
                    results.leave()
                _say_connected(context, session_id, epoch)
                for result in results:
                    yield frame_pb2.CollectResponse(result=result)
            finally:
                streams.close_collect(results)

    def Return(
        self, request_iterator: Iterator[frame_pb2.ReturnRequest], context: grpc.ServicerContext
    ) -> frame_pb2.ReturnResponse:
        """Tokens from the last stage of this line to this one, its first."""
        streams = self._holdings.streams(_session_of(context))
        with failures_answered(context, lambda: streams.culprit):
            session_id, epoch = _stream_of(context)
            returned = streams.open_return(session_id, epoch)
            _say_connected(context, session_id, epoch)
            returned.read(request_iterator)
            return frame_pb2.ReturnResponse()


def _say_connected(context: grpc.ServicerContext, session_id: str, epoch: int) -> None:
    """Initial metadata that repeats the call's: gRPC shows a refused call to have some, too, but empty."""
    context.send_initial_metadata(((SESSION_METADATA_KEY, session_id), (EPOCH_METADATA_KEY, str(epoch))))


def _session_of(context: grpc.ServicerContext) -> str:
    return _metadata_of(context).get(SESSION_METADATA_KEY, "")


def _metadata_of(context: grpc.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}


def _stream_of(context: grpc.ServicerContext) -> tuple[str, int]:
    """The session and epoch a stream is of, from its metadata."""
    metadata = _metadata_of(context)
    session_id, epoch = metadata.get(SESSION_METADATA_KEY, ""), metadata.get(EPOCH_METADATA_KEY, "")
    if not is_session_id(session_id) or not (epoch.isascii() and epoch.isdecimal() and len(epoch) <= 20):
        raise BadRequestError(
            f"a stream's metadata names its session ({SESSION_METADATA_KEY}) and epoch ({EPOCH_METADATA_KEY})"
        )
    return session_id, int(epoch)
