# SPDX-License-Identifier: MIT
"""Frames as a stage's reader checks them: what is in bounds becomes a batch, everything else is refused."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from protos.caravan.v1 import frame_pb2
from protos.codec import encode_tensor
from worker.errors import BadFrameError, CrossingDataError
from worker.frames import MAX_GRAMMAR_BYTES, FrameLimits, Step, check_frame, check_void_frames, emptied
from worker.voids import Voids

LIMITS = FrameLimits(
    session_id="s",
    epoch=3,
    is_first=True,
    is_last=True,
    n_batch=32,
    n_ctx_seq=256,
    n_seq_max=4,
    n_vocab=1000,
    n_embd=8,
    kv_unified=False,
    logits_limit_bytes=8000,
)


def limits(**changes: object) -> FrameLimits:
    return replace(LIMITS, **changes)  # type: ignore[arg-type]


def good_frame() -> frame_pb2.Frame:
    return frame_pb2.Frame(
        session_id="s",
        epoch=3,
        number=7,
        tokens=[5, 999, 0],
        positions=[0, 1, 255],
        seq_ids=[0, 3, 2],
        outputs=[frame_pb2.OutputRow(row=0, sample=True), frame_pb2.OutputRow(row=2, logits=True)],
    )


def check(frame: frame_pb2.Frame, within: FrameLimits = LIMITS) -> Step:
    return check_frame(frame_pb2.FeedRequest(frame=frame), number=7, limits=within, arrived_ns=11)


def opened(**params: object) -> frame_pb2.SamplerOperation:
    values = {"top_p": 1.0, "typical_p": 1.0, "repeat_penalty": 1.0} | params
    return frame_pb2.SamplerOperation(
        open=frame_pb2.SamplerOpen(seq_id=1, params=frame_pb2.SamplingParams(**values))  # type: ignore[arg-type]
    )


def test_a_good_frame_becomes_a_batch() -> None:
    step = check(good_frame())
    assert step.batch is not None
    for array, values in (
        (step.batch.tokens, [5, 999, 0]),
        (step.batch.positions, [0, 1, 255]),
        (step.batch.seq_ids, [0, 3, 2]),
        (step.batch.output_rows, [0, 2]),
    ):
        assert array.dtype == np.int32
        assert array.tolist() == values
    assert step.arrived_ns == 11


def test_only_the_last_stage_flags_outputs() -> None:
    step = check(good_frame(), limits(is_last=False))
    assert step.batch is not None
    assert step.batch.output_rows.tolist() == []
    assert list(step.rows) == []


def test_a_frame_without_tokens_has_operations_only() -> None:
    frame = frame_pb2.Frame(session_id="s", epoch=3, number=7)
    frame.kv_operations.add().keep.seq_id = 1
    assert check(frame).batch is None


def test_a_void_frame_keeps_its_operations_and_has_neither_tokens_nor_outputs() -> None:
    frame = good_frame()
    frame.kv_operations.add(remove=frame_pb2.KvRemove(seq_id=1, start=0, end=-1))
    step = emptied(check(frame))
    assert (step.batch, list(step.crossing), list(step.rows)) == (None, [], [])
    # What goes on to the next stage is a good frame, too.
    after = check(step.frame, limits(is_first=False))
    assert (after.batch, list(after.rows), len(after.frame.kv_operations)) == (None, [], 1)


def test_what_is_void_is_known_until_it_comes_and_no_longer() -> None:
    voids = Voids()
    voids.note([5, 3, 9])
    assert [voids.take(number) for number in (4, 5, 6, 9, 9)] == [False, True, False, True, False]
    voids.note([2])
    assert not voids.take(10)


def test_frames_beyond_what_can_be_on_its_way_are_not_called_void() -> None:
    word = frame_pb2.VoidFrames(numbers=[7, 10])
    assert list(check_void_frames(word, last_number=6)) == [7, 10]
    assert not check_void_frames(frame_pb2.VoidFrames(), last_number=0)
    for numbers in ([1 << 40], [7] * 5000):
        with pytest.raises(BadFrameError, match="void"):
            check_void_frames(frame_pb2.VoidFrames(numbers=numbers), last_number=6)


def test_long_and_short_batches_are_checked_alike() -> None:
    for n_tokens in (1, 16, 17, 32):
        frame = frame_pb2.Frame(
            session_id="s", epoch=3, number=7, tokens=[4] * n_tokens, positions=range(n_tokens), seq_ids=[0] * n_tokens
        )
        step = check(frame)
        assert step.batch is not None
        assert step.batch.positions.tolist() == list(range(n_tokens))
        frame.tokens[-1] = 1000
        with pytest.raises(BadFrameError, match=r"token 1000, outside \[0, 1000\)"):
            check(frame)
        frame.tokens[-1] = -1
        with pytest.raises(BadFrameError, match="token -1"):
            check(frame)


EMBEDS = limits(n_embedded=3, n_embd_out=8)


def _embedding_frame(*rows: int) -> frame_pb2.Frame:
    frame = good_frame()
    del frame.outputs[:]
    frame.outputs.extend(frame_pb2.OutputRow(row=row, embedding=True) for row in rows)
    return frame


def test_every_stage_is_told_that_a_frame_embeds() -> None:
    for is_last in (True, False):
        step = check(_embedding_frame(0, 2), replace(EMBEDS, is_last=is_last))
        assert step.batch is not None
        assert step.batch.embeds
    batch = check(good_frame()).batch
    assert batch is not None
    assert batch.embeds is False


@pytest.mark.parametrize(
    ("within", "complaint"),
    [
        (LIMITS, "wants embeddings with 3 tokens; 0 may have any"),
        (replace(EMBEDS, n_embedded=2), "3 tokens; 2 may have any"),
        (replace(EMBEDS, n_embd_out=2000), "embeddings of 2 rows, which is 16000 bytes; 8000 fit one result"),
    ],
)
def test_more_embeddings_than_the_session_has_are_refused(within: FrameLimits, complaint: str) -> None:
    with pytest.raises(BadFrameError, match=complaint):
        check(_embedding_frame(0, 2), within)


def test_a_frame_is_of_one_kind_and_an_encoder_makes_no_tokens() -> None:
    frame = _embedding_frame(0)
    frame.outputs.add(row=1, sample=True)
    with pytest.raises(BadFrameError, match="a frame has all of a kind"):
        check(frame, EMBEDS)
    with pytest.raises(BadFrameError, match="this model makes nothing else"):
        check(good_frame(), replace(EMBEDS, only_embeds=True))


def _spoil(change: Callable[[frame_pb2.Frame], object]) -> frame_pb2.Frame:
    frame = good_frame()
    change(frame)
    return frame


def _set(field: str, value: object) -> Callable[[frame_pb2.Frame], object]:
    return lambda frame: setattr(frame, field, value)


def _replace(field: str, index: int, value: int) -> Callable[[frame_pb2.Frame], object]:
    return lambda frame: getattr(frame, field).__setitem__(index, value)


def _append(field: str, value: int) -> Callable[[frame_pb2.Frame], object]:
    return lambda frame: getattr(frame, field).append(value)


def _operation(name: str, **values: int) -> Callable[[frame_pb2.Frame], object]:
    message = {
        "remove": frame_pb2.KvRemove,
        "copy": frame_pb2.KvCopy,
        "keep": frame_pb2.KvKeep,
        "shift": frame_pb2.KvShift,
    }[name]
    operation = frame_pb2.KvOperation(**{name: message(**values)})
    return lambda frame: frame.kv_operations.append(operation)


def _sampler(operation: frame_pb2.SamplerOperation) -> Callable[[frame_pb2.Frame], object]:
    return lambda frame: frame.sampler_operations.append(operation)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_set("number", 6), "frame 6 came where frame 7 was due"),
        (_set("number", 8), "frame 8 came where frame 7 was due"),
        (lambda frame: [frame.timings.add() for _ in range(513)], "timings of 513 stages"),
        (_set("epoch", 2), "another session or epoch"),
        (_set("session_id", "t"), "another session or epoch"),
        (_append("tokens", 1), "the three must be as many"),
        (_append("positions", 1), "the three must be as many"),
        (_append("seq_ids", 1), "the three must be as many"),
        (lambda frame: frame.tokens.extend(range(30)), "33 tokens, the session's n_batch is 32"),
        (_replace("tokens", 0, 1000), "token 1000"),
        (_replace("tokens", 0, -5), "token -5"),
        (_replace("positions", 2, 256), "position 256"),
        (_replace("positions", 2, -1), "position -1"),
        (_replace("seq_ids", 1, 4), "seq_id 4"),
        (_replace("seq_ids", 1, -1), "seq_id -1"),
        (lambda frame: frame.outputs.add(row=3), r"rows \[0, 2, 3\] of 3"),
        (lambda frame: frame.outputs.add(row=2), r"rows \[0, 2, 2\] of 3"),
        (lambda frame: frame.outputs.add(row=1), r"rows \[0, 2, 1\] of 3"),
        (_operation("remove", seq_id=4, start=0, end=-1), "sequence 4"),
        (_operation("remove", seq_id=-1, start=0, end=-1), "sequence -1"),
        (_operation("remove", seq_id=0, start=-1, end=-1), r"positions \[-1, -1\)"),
        (_operation("remove", seq_id=0, start=5, end=4), r"positions \[5, 4\)"),
        (_operation("copy", source_seq_id=0, target_seq_id=9, start=0, end=-1), "sequence 9"),
        (_operation("copy", source_seq_id=0, target_seq_id=1, start=0, end=8), "unified KV cache"),
        (_operation("keep", seq_id=7), "sequence 7"),
        (_operation("shift", seq_id=0, start=0, end=-1, delta=300), "shifts by 300"),
        (lambda frame: frame.kv_operations.add(), "does not know"),
        (lambda frame: [_operation("keep", seq_id=0)(frame) for _ in range(33)], "too many"),
        (lambda frame: frame.sampler_operations.add(), "does not know"),
        (lambda frame: [_sampler(opened())(frame) for _ in range(33)], "too many"),
        (_sampler(opened(temperature=float("nan"))), "temperature nan"),
        (_sampler(opened(top_p=float("inf"))), "top_p inf"),
        (_sampler(opened(repeat_last_n=-2)), "repeat_last_n -2"),
        (_sampler(opened(repeat_last_n=2**31 - 1)), "repeat_last_n"),
        (_sampler(opened(n_top_logprobs=21, logprobs=True)), "21 top logprobs"),
        (_sampler(opened(n_top_logprobs=2)), "only with logprobs"),
        (_sampler(opened(grammar="x" * (MAX_GRAMMAR_BYTES + 1))), "grammar beyond"),
        (_sampler(opened(logit_bias=[frame_pb2.LogitBias(token=1000)])), "token 1000"),
        (_sampler(opened(visible_tokens=[1, 1000])), "visible token 1000"),
        (_sampler(opened(visible_tokens=[1] * 65)), "more than 64 visible tokens"),
        (_sampler(opened(logit_bias=[frame_pb2.LogitBias(bias=float("nan"))])), "bias of nan"),
        (
            _sampler(frame_pb2.SamplerOperation(open=frame_pb2.SamplerOpen(seq_id=4))),
            "sequence 4",
        ),
        (
            _sampler(frame_pb2.SamplerOperation(open=frame_pb2.SamplerOpen(prompt_tokens=[1000]))),
            "token 1000",
        ),
        (_sampler(frame_pb2.SamplerOperation(close=frame_pb2.SamplerClose(seq_id=4))), "sequence 4"),
    ],
)
def test_what_is_out_of_order_or_bounds_is_refused_and_named(
    change: Callable[[frame_pb2.Frame], object], complaint: str
) -> None:
    with pytest.raises(BadFrameError, match=complaint):
        check(_spoil(change))


def test_a_forbidding_bias_is_no_fault() -> None:
    bias = frame_pb2.LogitBias(token=3, bias=float("-inf"))
    check(_spoil(_sampler(opened(logit_bias=[bias]))))


def test_part_of_a_sequence_may_be_copied_within_a_unified_cache() -> None:
    frame = _spoil(_operation("copy", source_seq_id=0, target_seq_id=1, start=0, end=8))
    check(frame, limits(kv_unified=True))


def test_more_raw_logits_than_fit_a_result_are_refused() -> None:
    frame = good_frame()
    frame.outputs[0].logits = True
    check(frame)
    with pytest.raises(BadFrameError, match="raw logits of 2 rows"):
        check(frame, limits(logits_limit_bytes=7999))


def with_crossing(n_floats: int, *, cut: int = 0) -> frame_pb2.Frame:
    frame = good_frame()
    tensor = encode_tensor("l_out-3@0", "f32", (n_floats, 1, 1, 1), bytes(4 * n_floats))
    tensor.data = tensor.data[cut:]
    frame.crossing.append(tensor)
    return frame


def test_crossing_tensors_are_decoded_on_the_later_stages() -> None:
    step = check(with_crossing(24), limits(is_first=False))
    assert [(t.key, t.dtype, t.shape, len(t.data)) for t in step.crossing] == [("l_out-3@0", "f32", (24, 1, 1, 1), 96)]


def test_crossing_tensors_do_not_come_to_the_first_stage() -> None:
    with pytest.raises(BadFrameError, match="first stage"):
        check(with_crossing(24))


def test_a_crossing_tensor_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(CrossingDataError, match="l_out-3@0"):
        check(with_crossing(24, cut=1), limits(is_first=False))


def test_crossing_tensors_are_bounded_by_the_frame_they_belong_to() -> None:
    # Three tokens of eight floats: sixteen such states may cross.
    check(with_crossing(16 * 3 * 8), limits(is_first=False))
    with pytest.raises(CrossingDataError, match="more than"):
        check(with_crossing(16 * 3 * 8 + 1), limits(is_first=False))


def test_a_frame_without_tokens_has_no_crossing_tensors() -> None:
    frame = frame_pb2.Frame(session_id="s", epoch=3, number=7)
    frame.crossing.append(with_crossing(8).crossing[0])
    with pytest.raises(BadFrameError, match="no tokens"):
        check(frame, limits(is_first=False))


def test_garbage_never_passes_as_anything_but_a_refusal_or_a_step() -> None:
    """Bytes changed at random in a good frame are refused, or make another frame that is in bounds."""
    random = np.random.default_rng(1)
    raw = with_crossing(24).SerializeToString()
    for _ in range(500):
        spoiled = bytearray(raw)
        for at in random.integers(0, len(raw), size=3):
            spoiled[at] = random.integers(0, 256)
        frame = frame_pb2.Frame()
        try:
            frame.ParseFromString(bytes(spoiled))
        except Exception:
            continue
        try:
            step = check(frame, limits(is_first=False))
        except (BadFrameError, CrossingDataError):
            continue
        if step.batch is not None:
            assert 0 <= step.batch.tokens.min() <= step.batch.tokens.max() < 1000
            assert 0 <= step.batch.positions.min() <= step.batch.positions.max() < 256
            assert 0 <= step.batch.seq_ids.min() <= step.batch.seq_ids.max() < 4
