# SPDX-License-Identifier: MIT
"""A frame from the network, checked against the session and turned into what llama.cpp is given.

Frames are untrusted: order, lengths, ids, positions, operations, samplers and crossing tensors are all within
the session's bounds before anything is computed, else the frame is refused. Pure; called on a Feed's reading
thread while the engine computes the frame before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from native import Batch, CrossingTensor
from protos.caravan.v1 import frame_pb2
from protos.codec import CodecError, decode_tensors
from protos.contract import MAX_CROSSING_STATES, MAX_TOP_LOGPROBS, MAX_VOID_FRAMES
from worker.errors import BadFrameError, CrossingDataError

_TO_END = -1
# Tokens below which a loop in Python is faster than numpy.
_FEW = 16

# JSON schemas of tools become grammars of some ten kilobytes; beyond this, parsing is an attack.
MAX_GRAMMAR_BYTES = 256 * 1024

# Formats of chats have about ten.
MAX_VISIBLE_TOKENS = 64
# Operations are a few per request that starts or ends; a frame serves n_seq_max sequences.
MAX_OPERATIONS_PER_SEQUENCE = 8
# A shifted sequence has a longer history than its context. llama.cpp's penalties allocate repeat_last_n ids.
MAX_HISTORY_TOKENS = 1 << 20
# One of each stage before, which has a layer at least.
MAX_TIMINGS = 512


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """What a frame of one epoch may hold on one stage."""

    session_id: str
    epoch: int
    is_first: bool
    is_last: bool
    n_batch: int
    n_ctx_seq: int
    n_seq_max: int
    n_vocab: int
    n_embd: int
    kv_unified: bool
    # Bytes of raw logits that one result may carry.
    logits_limit_bytes: int
    # Tokens of a frame that makes embeddings, and numbers in one of these; 0: the context makes none.
    n_embedded: int = 0
    n_embd_out: int = 0
    # The model makes nothing else.
    only_embeds: bool = False
    is_draft: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A checked frame. `request` is the message itself, to be handed on with other crossing tensors.

    `batch` is None when the frame has operations only. `rows` are the answers wanted, empty but on the last stage.
    `chained` are rows whose tokens are known when the rows before them are sampled.
    """

    request: frame_pb2.FeedRequest
    batch: Batch | None
    crossing: Sequence[CrossingTensor]
    rows: Sequence[frame_pb2.OutputRow]
    arrived_ns: int
    chained: Sequence[int] = ()

    @property
    def frame(self) -> frame_pb2.Frame:
        """The frame as it came."""
        return self.request.frame


def embeds(frame: frame_pb2.Frame) -> bool:
    """Whether the frame makes embeddings; such rows are all of a frame's, or none is one."""
    outputs = frame.outputs
    return bool(outputs) and outputs[0].embedding


def check_frame(request: frame_pb2.FeedRequest, *, number: int, limits: FrameLimits, arrived_ns: int) -> Step:
    """The step that this frame asks for.

    Args:
        number: the frame number that is due.
        arrived_ns: when it came, on the worker's monotonic clock.

    Raises:
        BadFrameError: out of order or out of bounds; says what.
        CrossingDataError: a crossing tensor contradicts itself or is too large.
    """
    frame = request.frame
    _check_order(frame, number, limits)
    if len(frame.timings) > MAX_TIMINGS:
        raise BadFrameError(
            f"frame {number} has timings of {len(frame.timings)} stages; at most {MAX_TIMINGS} are allowed"
        )
    # Most frames of a decode have neither.
    if frame.kv_operations:
        _check_kv_operations(frame, limits)
    if limits.is_last and frame.sampler_operations:
        _check_sampler_operations(frame, limits)
    rows = _output_rows(frame, limits)
    if frame.follows or frame.returns:
        _check_following(frame)
    batch = _batch(frame, rows if limits.is_last else [], limits)
    crossing = _crossing(frame, 0 if batch is None else len(batch.tokens), limits)
    return Step(
        request=request,
        batch=batch,
        crossing=crossing,
        rows=frame.outputs if limits.is_last else (),
        arrived_ns=arrived_ns,
        chained=_chained(frame) if limits.is_draft else (),
    )


def emptied(step: Step) -> Step:
    """The same without its tokens, here and for the stages after: only its operations are carried out."""
    for name in ("tokens", "positions", "seq_ids", "outputs", "crossing", "chained", "follows", "returns"):
        step.frame.ClearField(name)
    return replace(step, batch=None, crossing=(), rows=(), chained=())


def check_void_frames(message: frame_pb2.VoidFrames, *, last_number: int) -> Sequence[int]:
    """The numbers of frames that are said to be void.

    Args:
        last_number: of the last frame that came.

    Raises:
        BadFrameError: too many, or frames that cannot be on their way yet.
    """
    numbers = message.numbers
    if len(numbers) > MAX_VOID_FRAMES or max(numbers, default=0) > last_number + MAX_VOID_FRAMES:
        raise BadFrameError(
            f"{len(numbers)} frames up to number {max(numbers)} are said to be void after frame {last_number}; at most"
            f" {MAX_VOID_FRAMES} may be, and none that is so far away"
        )
    return numbers


def _check_order(frame: frame_pb2.Frame, number: int, limits: FrameLimits) -> None:
    if frame.number != number:
        raise BadFrameError(f"frame {frame.number} came where frame {number} was due")
    if frame.session_id != limits.session_id or frame.epoch != limits.epoch:
        raise BadFrameError(f"frame {number} is of another session or epoch than its Feed")


def _batch(frame: frame_pb2.Frame, rows: list[int], limits: FrameLimits) -> Batch | None:
    """The frame's tokens; None if it has none."""
    # Each access to a field costs; what follows works on these three.
    tokens, positions, seq_ids = frame.tokens, frame.positions, frame.seq_ids
    n_tokens = len(tokens)
    if n_tokens > limits.n_batch:
        raise BadFrameError(f"frame {frame.number} has {n_tokens} tokens, the session's n_batch is {limits.n_batch}")
    if len(positions) != n_tokens or len(seq_ids) != n_tokens:
        raise BadFrameError(
            f"frame {frame.number} has {n_tokens} tokens, {len(positions)} positions and {len(seq_ids)} seq_ids;"
            " the three must be as many"
        )
    if n_tokens == 0:
        return None
    _check_ids(frame, "token", tokens, limits.n_vocab)
    _check_ids(frame, "position", positions, limits.n_ctx_seq)
    _check_ids(frame, "seq_id", seq_ids, limits.n_seq_max)
    if n_tokens <= _FEW:
        # One array, cut in four: making one costs more than its contents.
        flat: NDArray[np.int32] = np.array([*tokens, *positions, *seq_ids, *rows], dtype=np.int32)
        cuts = n_tokens, 2 * n_tokens, 3 * n_tokens
        return Batch(
            flat[: cuts[0]], flat[cuts[0] : cuts[1]], flat[cuts[1] : cuts[2]], flat[cuts[2] :], embeds=embeds(frame)
        )
    # protobuf copies a repeated field into an array without a loop in Python.
    return Batch(
        tokens=np.array(tokens, dtype=np.int32),
        positions=np.array(positions, dtype=np.int32),
        seq_ids=np.array(seq_ids, dtype=np.int32),
        output_rows=np.array(rows, dtype=np.int32),
        embeds=embeds(frame),
    )


def _check_ids(frame: frame_pb2.Frame, what: str, values: Sequence[int], end: int) -> None:
    """Raises BadFrameError unless each value is in [0, end)."""
    if len(values) <= _FEW:
        smallest, largest = min(values), max(values)
    else:
        array: NDArray[np.int32] = np.array(values, dtype=np.int32)
        smallest, largest = int(array.min()), int(array.max())
    if smallest < 0 or largest >= end:
        outside = smallest if smallest < 0 else largest
        raise BadFrameError(f"frame {frame.number} has {what} {outside}, outside [0, {end})")


def _crossing(frame: frame_pb2.Frame, n_tokens: int, limits: FrameLimits) -> Sequence[CrossingTensor]:
    tensors = frame.crossing
    if not tensors:
        return ()
    if limits.is_first:
        raise BadFrameError(f"frame {frame.number} brings crossing tensors to the first stage")
    if n_tokens == 0:
        raise BadFrameError(f"frame {frame.number} has crossing tensors and no tokens")
    # Floats for most, and 8 bytes for integers, which cross rarely; the factor covers both.
    limit_bytes = MAX_CROSSING_STATES * 4 * n_tokens * limits.n_embd
    try:
        decoded = decode_tensors(tensors, limit_bytes=limit_bytes)
    except CodecError as error:
        raise CrossingDataError(f"frame {frame.number}: {error}") from error
    return [CrossingTensor(key=t.key, dtype=t.dtype_name, shape=t.shape, data=t.data) for t in decoded]


def _output_rows(frame: frame_pb2.Frame, limits: FrameLimits) -> list[int]:
    """The rows that are wanted, ascending within the batch, and no more raw logits than fit."""
    rows: list[int] = []
    n_logits = n_embeddings = 0
    for output in frame.outputs:
        row = output.row
        if (rows and row <= rows[-1]) or row >= len(frame.tokens):
            raise BadFrameError(
                f"frame {frame.number} wants rows {[*rows, row]} of {len(frame.tokens)}; rows ascend within the batch"
            )
        rows.append(row)
        n_logits += output.logits
        n_embeddings += output.embedding
    if 4 * n_logits * limits.n_vocab > limits.logits_limit_bytes:
        raise BadFrameError(
            f"frame {frame.number} wants raw logits of {n_logits} rows, which is"
            f" {4 * n_logits * limits.n_vocab} bytes; {limits.logits_limit_bytes} fit one result"
        )
    if rows and (n_embeddings or limits.only_embeds):
        _check_embeddings(frame, n_embeddings, limits)
    return rows


def _check_following(frame: frame_pb2.Frame) -> None:
    """A token that another stage has, or is to get, is the only one of its frame."""
    is_lone = len(frame.outputs) == 1 and frame.outputs[0].sample
    if frame.returns and not is_lone:
        raise BadFrameError(
            f"frame {frame.number} is to return a token, which takes one output, not {len(frame.outputs)}"
        )
    if frame.follows and not (
        is_lone and frame.outputs[0].draft and len(frame.tokens) == 1 and frame.follows < frame.number
    ):
        raise BadFrameError(
            f"frame {frame.number} follows frame {frame.follows}; that takes one token, which is a draft, and a frame"
            " before it"
        )


def _check_embeddings(frame: frame_pb2.Frame, n_rows: int, limits: FrameLimits) -> None:
    """A frame with rows of which so many are embeddings: all or none, and no more than the session has them."""
    others = [output for output in frame.outputs if not output.embedding or output.sample or output.logits]
    if others:
        what = "this model makes nothing else" if limits.only_embeds else "a frame has all of a kind"
        raise BadFrameError(f"frame {frame.number} wants other rows than embeddings: {what}")
    if len(frame.tokens) > limits.n_embedded:
        raise BadFrameError(
            f"frame {frame.number} wants embeddings with {len(frame.tokens)} tokens; {limits.n_embedded} may have any"
        )
    n_bytes = 4 * n_rows * limits.n_embd_out
    if n_bytes > limits.logits_limit_bytes:
        raise BadFrameError(
            f"frame {frame.number} wants embeddings of {n_rows} rows, which is {n_bytes} bytes;"
            f" {limits.logits_limit_bytes} fit one result"
        )


def _chained(frame: frame_pb2.Frame) -> Sequence[int]:
    chained = list(frame.chained)
    if len(chained) > len(frame.tokens) or max(chained, default=0) >= max(1, len(frame.tokens)):
        raise BadFrameError(f"frame {frame.number} has chained rows {chained} among {len(frame.tokens)} tokens")
    return chained


def _check_kv_operations(frame: frame_pb2.Frame, limits: FrameLimits) -> None:
    if len(frame.kv_operations) > MAX_OPERATIONS_PER_SEQUENCE * limits.n_seq_max:
        raise BadFrameError(f"frame {frame.number} has {len(frame.kv_operations)} KV operations, too many")
    for operation in frame.kv_operations:
        match operation.WhichOneof("operation"):
            case "remove":
                _check_sequence(frame, operation.remove.seq_id, limits)
                _check_span(frame, operation.remove.start, operation.remove.end)
            case "copy":
                _check_copy(frame, operation.copy, limits)
            case "keep":
                _check_sequence(frame, operation.keep.seq_id, limits)
            case "shift":
                _check_sequence(frame, operation.shift.seq_id, limits)
                _check_span(frame, operation.shift.start, operation.shift.end)
                if abs(operation.shift.delta) > limits.n_ctx_seq:
                    raise BadFrameError(
                        f"frame {frame.number} shifts by {operation.shift.delta} positions,"
                        f" more than the context's {limits.n_ctx_seq}"
                    )
            case _:
                raise BadFrameError(f"frame {frame.number} has a KV operation this worker does not know")


def _check_copy(frame: frame_pb2.Frame, copy: frame_pb2.KvCopy, limits: FrameLimits) -> None:
    _check_sequence(frame, copy.source_seq_id, limits)
    _check_sequence(frame, copy.target_seq_id, limits)
    _check_span(frame, copy.start, copy.end)
    # llama_kv_cache::seq_cp aborts the process for part of a sequence between two buffers.
    is_whole = copy.start == 0 and copy.end == _TO_END
    if not (limits.kv_unified or is_whole or copy.source_seq_id == copy.target_seq_id):
        raise BadFrameError(
            f"frame {frame.number} copies part of a sequence, which needs a session with a unified KV cache"
        )


def _check_sequence(frame: frame_pb2.Frame, seq_id: int, limits: FrameLimits) -> None:
    if not 0 <= seq_id < limits.n_seq_max:
        raise BadFrameError(f"frame {frame.number} names sequence {seq_id}, outside [0, {limits.n_seq_max})")


def _check_span(frame: frame_pb2.Frame, start: int, end: int) -> None:
    if start < 0 or (end != _TO_END and end < start):
        raise BadFrameError(f"frame {frame.number} names positions [{start}, {end})")


def _check_sampler_operations(frame: frame_pb2.Frame, limits: FrameLimits) -> None:
    if len(frame.sampler_operations) > MAX_OPERATIONS_PER_SEQUENCE * limits.n_seq_max:
        raise BadFrameError(f"frame {frame.number} has {len(frame.sampler_operations)} sampler operations, too many")
    for operation in frame.sampler_operations:
        match operation.WhichOneof("operation"):
            case "open":
                _check_sequence(frame, operation.open.seq_id, limits)
                _check_history(frame, operation.open, limits)
                _check_sampling_params(frame, operation.open.params, limits)
            case "close":
                _check_sequence(frame, operation.close.seq_id, limits)
            case _:
                raise BadFrameError(f"frame {frame.number} has a sampler operation this worker does not know")


def _check_history(frame: frame_pb2.Frame, opened: frame_pb2.SamplerOpen, limits: FrameLimits) -> None:
    n_tokens = len(opened.prompt_tokens) + len(opened.generated_tokens)
    if n_tokens > MAX_HISTORY_TOKENS:
        raise BadFrameError(f"frame {frame.number} has a sampler history of {n_tokens} tokens, too many")
    for tokens in (opened.prompt_tokens, opened.generated_tokens):
        if tokens:
            _check_ids(frame, "token", tokens, limits.n_vocab)


def _check_sampling_params(frame: frame_pb2.Frame, params: frame_pb2.SamplingParams, limits: FrameLimits) -> None:
    numbers = {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "min_p": params.min_p,
        "typical_p": params.typical_p,
        "repeat_penalty": params.repeat_penalty,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
    }
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise BadFrameError(f"frame {frame.number} has {name} {value}")
    if not -1 <= params.repeat_last_n <= MAX_HISTORY_TOKENS:
        raise BadFrameError(f"frame {frame.number} has repeat_last_n {params.repeat_last_n}, out of bounds")
    if params.n_top_logprobs > MAX_TOP_LOGPROBS or (params.n_top_logprobs and not params.logprobs):
        raise BadFrameError(
            f"frame {frame.number} wants {params.n_top_logprobs} top logprobs;"
            f" at most {MAX_TOP_LOGPROBS}, and only with logprobs"
        )
    if len(params.grammar.encode()) > MAX_GRAMMAR_BYTES:
        raise BadFrameError(f"frame {frame.number} has a grammar beyond {MAX_GRAMMAR_BYTES} bytes")
    if len(params.logit_bias) > limits.n_vocab:
        raise BadFrameError(f"frame {frame.number} has more logit biases than the vocabulary has tokens")
    if len(params.visible_tokens) > MAX_VISIBLE_TOKENS:
        raise BadFrameError(f"frame {frame.number} has more than {MAX_VISIBLE_TOKENS} visible tokens")
    if params.visible_tokens:
        _check_ids(frame, "visible token", params.visible_tokens, limits.n_vocab)
    for entry in params.logit_bias:
        if not 0 <= entry.token < limits.n_vocab:
            raise BadFrameError(
                f"frame {frame.number} has a logit bias for token {entry.token}, outside [0, {limits.n_vocab})"
            )
        if math.isnan(entry.bias) or entry.bias == math.inf:
            raise BadFrameError(f"frame {frame.number} has a logit bias of {entry.bias}")
