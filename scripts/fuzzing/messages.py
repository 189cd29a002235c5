# SPDX-License-Identifier: MIT
"""Made-up messages, through all that checks messages: frames, crossing tensors, orders, and the weights channel's.

    scripts/fuzz_frames                  a million cases, from a seed that is printed
    scripts/fuzz_frames --seed 7         the same ones again

A case is a good message with some fields changed by somebody who knows its form, or with some bytes changed by somebody
who does not. It may be refused in the ways that callers expect, and in no other; and what passes must be within every
bound of its session, which is told here a second time, in other words. Ends with 1 at the first case that is not so.

It needs no more than the tests do, and one of them runs some thousand cases; scripts/fuzz_headers goes by coverage.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from protos.caravan.v1 import control_pb2, frame_pb2, weights_pb2
from protos.codec import CodecError, decode_tensor, encode_tensor
from worker import control
from worker.errors import CallError
from worker.frames import FrameLimits, Step, check_frame, check_void_frames

_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 99, 100, 101, 255, 256, 4096, 65535, 65536),
    *((1 << n) + d for n in (24, 31, 32, 63, 64) for d in (-1, 0, 1)),
    *(-1, -2, -(1 << 31), -(1 << 63)),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e30, -1e30, 5e-324, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "s", "f32", "root ::= root", "a" * 300, "\0", "../../etc/passwd", "é" * 130, "\U0001f600", "127.0.0.1:1")
_MOST_ELEMENTS = 70
_N_CHANGES = (1, 1, 1, 2, 3, 8)
_BLIND = 0.3

_LIMITS = tuple(
    FrameLimits("s", 1, is_first, is_last, 32, 64, 2, 100, 8, kv_unified, 8000, is_draft)
    for is_first in (True, False)
    for is_last in (True, False)
    for kv_unified in (True, False)
    for is_draft in (True, False)
)


class Finding(Exception):
    """A case that passed and should not have."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message: a good one, and what checks such. `check` raises what its callers expect, or Finding."""

    name: str
    good: Message
    check: Callable[[Any, random.Random], None]


def kinds() -> list[Kind]:
    """All of them."""
    return [
        *(Kind("frame", each, _check_frame) for each in _frames()),
        Kind("void frames", frame_pb2.VoidFrames(numbers=[7, 8]), _check_void_frames),
        Kind("tensor", encode_tensor("h", "f32", (8, 2), bytes(64)), _check_tensor),
        Kind("load", _load(), lambda message, _: void(control._load_order(message, 1))),
        Kind("benchmark", _benchmark(), lambda message, _: void(control._benchmark_order(message, 1))),
        *(Kind("weights", each, lambda _message, _chance: None) for each in _of_weights()),
    ]


def try_case(kind: Kind, chance: random.Random) -> bool:
    """One case; whether it passed. Raises whatever is wrong."""
    message = type(kind.good)()
    message.CopyFrom(kind.good)
    is_blind = chance.random() < _BLIND
    if not is_blind:
        for _ in range(chance.choice(_N_CHANGES)):
            _change(message, chance)
    data = bytearray(message.SerializeToString())
    if is_blind:
        _spoil(data, chance)
    try:
        kind.check(type(kind.good).FromString(bytes(data)), chance)
    except (DecodeError, CallError, CodecError):
        return False
    return True


def run(n_cases: int, seed: int) -> Counter[str]:
    """So many cases; how many of each kind there were, and passed. Raises whatever is wrong, with the case's number."""
    counts: Counter[str] = Counter()
    known = kinds()
    for number in range(n_cases):
        kind = known[number % len(known)]
        try:
            passed = try_case(kind, random.Random(f"{seed}.{number}"))
        except Exception as error:
            raise Finding(f"case {number} of seed {seed}, {kind.name}: {type(error).__name__}: {error}") from error
        counts[kind.name] += 1
        counts[f"{kind.name} passed"] += passed
    return counts


def main() -> int:
    """1 if anything was found."""
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz_frames", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1_000_000, help="how many (default a million)")
    parser.add_argument("--seed", type=int, default=None, help="of chance (default: another each time)")
    options = parser.parse_args()
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    started = time.monotonic()
    try:
        counts = run(options.cases, seed)
    except Finding as finding:
        print(f"found: {finding}", file=sys.stderr)
        return 1
    for name in dict.fromkeys(kind.name for kind in kinds()):
        print(f"{name:12}{counts[name]:>10,} cases, {counts[f'{name} passed']:>8,} passed")
    print(f"{options.cases:,} cases in {time.monotonic() - started:.0f} s, nothing found")
    return 0


def void(_value: object) -> None:
    """For a check whose result nobody needs."""


# ---- what is checked, a second time ----


def _check_frame(message: frame_pb2.FeedRequest, chance: random.Random) -> None:
    limits = chance.choice(_LIMITS)
    _within(check_frame(message, number=0, limits=limits, arrived_ns=0), limits)


def _within(step: Step, limits: FrameLimits) -> None:
    """Raises Finding for a step that is not within the bounds of its session."""
    frame, batch = step.frame, step.batch
    n_tokens = 0 if batch is None else len(batch.tokens)
    _must(n_tokens <= limits.n_batch, "more tokens than a batch has")
    if batch is not None:
        _must(len(batch.positions) == len(batch.seq_ids) == n_tokens, "another number of positions or sequences")
        for values, end in (
            (batch.tokens, limits.n_vocab),
            (batch.positions, limits.n_ctx_seq),
            (batch.seq_ids, limits.n_seq_max),
        ):
            _must(all(0 <= int(value) < end for value in values), "an id out of bounds")
        _must(all(0 <= int(row) < n_tokens for row in batch.output_rows), "a row that no token has")
    _must(all(0 <= row < n_tokens for row in step.chained), "a chained row that is no token")
    n_logits = sum(row.logits for row in frame.outputs)
    _must(4 * n_logits * limits.n_vocab <= limits.logits_limit_bytes, "more logits than fit")
    _must(not (limits.is_first and step.crossing), "a tensor that crosses to the first stage")
    _must(sum(len(each.data) for each in step.crossing) <= 64 * n_tokens * limits.n_embd, "too much that crosses")
    for operation in frame.kv_operations:
        named = getattr(operation, operation.WhichOneof("operation"))
        ids = [getattr(named, name) for name in ("seq_id", "source_seq_id", "target_seq_id") if hasattr(named, name)]
        _must(all(0 <= each < limits.n_seq_max for each in ids), "an operation on no sequence")


def _check_void_frames(message: frame_pb2.VoidFrames, _chance: random.Random) -> None:
    numbers = check_void_frames(message, last_number=6)
    _must(len(numbers) < 5000, "too many frames")
    _must(all(number < 5000 for number in numbers), "a frame that is far away")


def _check_tensor(message: frame_pb2.Tensor, chance: random.Random) -> None:
    limit_bytes = chance.choice((None, 0, 32, 64, 1 << 20))
    decoded = decode_tensor(message, limit_bytes=limit_bytes)
    _must(limit_bytes is None or len(decoded.data) <= limit_bytes, "more bytes than allowed")
    again = encode_tensor(decoded.key, decoded.dtype_name, decoded.shape, decoded.data)
    _must(decode_tensor(again) == decoded, "another tensor after a second journey")


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Finding(f"passed with {otherwise}")


# ---- how a message is changed ----


def _change(message: Message, chance: random.Random) -> None:
    """One field of it, or of a message in it."""
    field: Any = chance.choice(message.DESCRIPTOR.fields)
    value: Any = getattr(message, field.name)
    if field.is_repeated:
        _change_list(value, field, chance)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if chance.random() < 0.1:
            message.ClearField(field.name)
        else:
            value.SetInParent()
            _change(value, chance)
    else:
        setattr(message, field.name, _value(field, chance))


def _change_list(values: Any, field: Any, chance: random.Random) -> None:  # noqa: ANN401 -- protobuf's own
    """An element changed, gone, or more of them."""
    what = chance.random()
    if values and what < 0.2:
        del values[chance.randrange(len(values))]
        return
    n_more = 1 if what < 0.8 else chance.randrange(_MOST_ELEMENTS)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if values and what < 0.6:
            _change(chance.choice(values), chance)
            return
        for _ in range(n_more):
            _change(values.add(), chance)
    elif values and what < 0.6:
        values[chance.randrange(len(values))] = _value(field, chance)
    else:
        values.extend(_value(field, chance) for _ in range(n_more))


def _value(field: Any, chance: random.Random) -> object:  # noqa: ANN401 -- protobuf's own
    """Something that such a field can hold."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return chance.randbytes(chance.choice((0, 1, 8, 32, 63, 64, 65, 300)))
        case FieldDescriptor.CPPTYPE_STRING:
            return chance.choice(_TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            value = chance.choice(_FLOATS)
            return value if abs(value) < 3e38 or value != value or abs(value) == float("inf") else 0.0
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_ENUM:
            return _fitting(chance, -(1 << 31), 1 << 31)
        case FieldDescriptor.CPPTYPE_UINT32:
            return _fitting(chance, 0, 1 << 32)
        case FieldDescriptor.CPPTYPE_INT64:
            return _fitting(chance, -(1 << 63), 1 << 63)
        case _:
            return _fitting(chance, 0, 1 << 64)


def _fitting(chance: random.Random, start: int, end: int) -> int:
    """Of the telling numbers one that is in [start, end)."""
    number = chance.choice(_NUMBERS) if chance.random() < 0.7 else chance.randrange(-3, 105)
    return number if start <= number < end else chance.randrange(0, 100)


def _spoil(data: bytearray, chance: random.Random) -> None:
    """Some bytes of it, without knowing which."""
    for _ in range(chance.choice(_N_CHANGES)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                del data[at : at + chance.randrange(9)]
            case 2:
                data[at:at] = chance.randbytes(chance.randrange(9))
            case _:
                data[at:at] = data[chance.randrange(len(data) + 1) :][:64]


# ---- good ones ----


def _frames() -> Sequence[frame_pb2.FeedRequest]:
    plain = frame_pb2.Frame(session_id="s", epoch=1, tokens=[1, 2], positions=[0, 1], seq_ids=[0, 0])
    plain.outputs.add(row=1, sample=True)
    crossed, sampled, long = frame_pb2.Frame(), frame_pb2.Frame(), frame_pb2.Frame()
    for frame in (crossed, sampled):
        frame.CopyFrom(plain)
    crossed.crossing.append(encode_tensor("h", "f32", (8, 2), bytes(64)))
    params = frame_pb2.SamplingParams(temperature=1, logprobs=True, n_top_logprobs=2, grammar='root ::= "a"')
    params.logit_bias.add(token=1, bias=-1)
    sampled.sampler_operations.add().open.CopyFrom(
        frame_pb2.SamplerOpen(seq_id=0, params=params, prompt_tokens=[1, 2], generated_tokens=[3])
    )
    sampled.sampler_operations.add().close.seq_id = 1
    sampled.kv_operations.add().remove.CopyFrom(frame_pb2.KvRemove(seq_id=0, start=0, end=-1))
    sampled.kv_operations.add().copy.CopyFrom(frame_pb2.KvCopy(target_seq_id=1, end=-1))
    sampled.kv_operations.add().shift.CopyFrom(frame_pb2.KvShift(seq_id=1, start=3, end=9, delta=-3))
    sampled.kv_operations.add().keep.seq_id = 1
    plain.chained.append(1)
    long.CopyFrom(frame_pb2.Frame(session_id="s", epoch=1, tokens=[3] * 30, positions=range(30), seq_ids=[1] * 30))
    return [frame_pb2.FeedRequest(frame=frame) for frame in (plain, crossed, sampled, long)]


def _stage() -> control_pb2.StageSpec:
    return control_pb2.StageSpec(
        model=control_pb2.ModelReference(path="/m.gguf", identity="0" * 64),
        layer_end=2,
        context=control_pb2.ContextParams(
            n_ctx_seq=64, n_seq_max=2, n_batch=32, n_ubatch=32, kv_type_k="f16", kv_type_v="f16",
            flash_attention=control_pb2.FLASH_ATTENTION_AUTO,
        ),
    )  # fmt: skip


def _load() -> control_pb2.LoadRequest:
    peer = control_pb2.WeightPeer(worker="w", address="127.0.0.1:50001", held_tensors=b"\3")
    sources = control_pb2.WeightSources(peers=[peer], coordinator_gives=True)
    return control_pb2.LoadRequest(session_id="s", epoch=1, stage=_stage(), sources=sources)


def _benchmark() -> control_pb2.BenchmarkRequest:
    run = control_pb2.BenchmarkRun(layer_end=2)
    stage = _stage()
    return control_pb2.BenchmarkRequest(
        model=stage.model, context=stage.context, runs=[run], batch_sizes=[1, 8], limit_s=1
    )


def _of_weights() -> Sequence[Message]:
    return [
        weights_pb2.WeightsHello(role=weights_pb2.WEIGHTS_ROLE_ASKER, identity="0" * 64, session_id="s", epoch=1),
        weights_pb2.WeightsAsk(tensor=0, piece=weights_pb2.Piece(offset=2, n_bytes=6)),
        weights_pb2.WeightsPiece(tensor=0, hash=bytes(32)),
    ]


if __name__ == "__main__":
    sys.exit(main())
