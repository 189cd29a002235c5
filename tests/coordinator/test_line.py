# SPDX-License-Identifier: MIT
"""Frames and results as messages. The line itself, with real workers: tests/line/."""

from coordinator.frames import (
    CacheOperation,
    Copy,
    LineResult,
    PlannedFrame,
    Remove,
    Request,
    SampledRow,
    StageTime,
    Start,
)
from coordinator.line import decode_result, encode_frame
from native import SamplingParams
from protos.caravan.v1 import frame_pb2


def test_a_frame_says_what_goes_before_it_starts_and_before_it_computes() -> None:
    sampling = SamplingParams(temperature=0.5, top_k=3, seed=9, logit_bias=((4, -1.0),), logprobs=True)
    request = Request(1, (10, 11), 8, sampling)
    operations: list[CacheOperation] = [Remove(2), Copy(1, 2), Remove(2, 5)]
    planned = PlannedFrame(
        7,
        operations,
        ends=[2],
        starts=[Start(2, request)],
        tokens=[10, 11],
        positions=[0, 1],
        seq_ids=[2, 2],
        outputs=[1],
    )
    frame = encode_frame(planned, "session", 3).frame
    assert (frame.session_id, frame.epoch, frame.number) == ("session", 3, 7)
    assert [operation.WhichOneof("operation") for operation in frame.kv_operations] == ["remove", "copy", "remove"]
    whole, copy, part = frame.kv_operations
    assert (whole.remove.seq_id, whole.remove.start, whole.remove.end) == (2, 0, -1)
    assert (copy.copy.source_seq_id, copy.copy.target_seq_id, copy.copy.start, copy.copy.end) == (1, 2, 0, -1)
    assert (part.remove.seq_id, part.remove.start, part.remove.end) == (2, 5, -1)
    assert [operation.WhichOneof("operation") for operation in frame.sampler_operations] == ["close", "open"]
    opened = frame.sampler_operations[1].open
    assert (opened.seq_id, list(opened.prompt_tokens), list(opened.generated_tokens)) == (2, [10, 11], [])
    assert (list(frame.tokens), list(frame.positions), list(frame.seq_ids)) == ([10, 11], [0, 1], [2, 2])
    assert [(output.row, output.sample, output.logits) for output in frame.outputs] == [(1, True, False)]


def test_a_sequence_that_goes_on_tells_its_sampler_what_it_sampled() -> None:
    start = Start(0, Request(1, (10, 11), 8, SamplingParams()), generated=(12, 13))
    (operation,) = encode_frame(PlannedFrame(1, starts=[start]), "s", 2).frame.sampler_operations
    assert (list(operation.open.prompt_tokens), list(operation.open.generated_tokens)) == ([10, 11], [12, 13])


def test_every_sampling_parameter_travels() -> None:
    changed = SamplingParams(
        temperature=0.25, top_k=3, top_p=0.5, min_p=0.125, typical_p=0.75, repeat_penalty=1.5, frequency_penalty=0.5,
        presence_penalty=0.25, repeat_last_n=-1, seed=9, grammar='root ::= "a"', logit_bias=((4, -1.0),),
        logprobs=True, n_top_logprobs=2, visible_tokens=(3, 5),
    )  # fmt: skip
    frame = encode_frame(PlannedFrame(1, starts=[Start(0, Request(1, (1,), 1, changed))]), "s", 1).frame
    sent = frame.sampler_operations[0].open.params
    default = SamplingParams()
    for name in SamplingParams.__slots__:
        assert getattr(changed, name) != getattr(default, name), f"{name} is not tried here"
        if name not in ("logit_bias", "visible_tokens"):
            assert getattr(sent, name) == getattr(changed, name), name
    assert list(sent.visible_tokens) == [3, 5]
    assert [(bias.token, bias.bias) for bias in sent.logit_bias] == [(4, -1.0)]


def test_a_result_gives_tokens_logprobs_and_reasons() -> None:
    result = frame_pb2.Result(
        frame_number=7,
        rows=[
            frame_pb2.RowResult(seq_id=0, sampled=frame_pb2.SampledToken(token=5)),
            frame_pb2.RowResult(
                seq_id=1,
                sampled=frame_pb2.SampledToken(
                    token=0, logprob=-0.5, top=[frame_pb2.TokenLogprob(token=0, logprob=-0.5)]
                ),
            ),
            frame_pb2.RowResult(seq_id=2, error="the grammar admits no token here"),
        ],
        timings=[
            frame_pb2.StageTiming(worker="a", arrived_ns=1_000_000, started_ns=1_000_000, finished_ns=3_000_000),
            frame_pb2.StageTiming(worker="b", arrived_ns=500, started_ns=500, finished_ns=500_500),
        ],
    )
    assert decode_result(result) == LineResult(
        7,
        [
            SampledRow(0, 5),
            SampledRow(1, 0, -0.5, ((0, -0.5),)),
            SampledRow(2, None, error="the grammar admits no token here"),
        ],
        (StageTime(0.0, 0.002), StageTime(0.0, 0.0005)),
    )
