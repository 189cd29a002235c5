# SPDX-License-Identifier: MIT
"""A line of two real workers, driven by hand: what one whole llama.cpp gives, the line gives bit for bit."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from native import Batch, Context, ContextParams, Model, Sampler, SamplingParams
from protos.caravan.v1 import frame_pb2
from tests.worker.conftest import Lines
from tests.worker.driver import (
    FedStream,
    greedy_sampler,
    load_request,
    row_logits,
    stage_spec,
    want_logits,
    want_token,
)

PROMPT = [5, 300, 17, 42, 400, 3, 9]


@pytest.fixture
def whole(model: Path) -> Iterator[Context]:
    """The unsplit model, in this process."""
    params = ContextParams(n_ctx_seq=256, n_batch=64, n_ubatch=64, n_threads=1)
    with Model.load(model) as loaded, Context(loaded, params) as context:
        yield context


def step(
    context: Context, tokens: list[int], positions: list[int], seq_ids: list[int], rows: list[int]
) -> list[NDArray[np.float32]]:
    """A step of the whole model; copies of the rows' logits."""
    arrays = [np.array(values, dtype=np.int32) for values in (tokens, positions, seq_ids, rows)]
    context.step(Batch(*arrays))
    return [context.logits(row).copy() for row in rows]


def same(row: frame_pb2.RowResult, logits: NDArray[np.float32]) -> bool:
    return bool(np.array_equal(row_logits(row), logits))


def test_prefill_and_decode_of_two_sequences_are_bit_identical(lines: Lines, whole: Context) -> None:
    stream = lines.open("identical")
    batches: list[tuple[list[int], list[int], list[int], list[int]]] = [
        (PROMPT, list(range(7)), [0] * 7, [0, 6]),
        ([11, 12, 13], [0, 1, 2], [1] * 3, [2]),
        ([21, 22], [7, 3], [0, 1], [0, 1]),
        ([31, 32], [4, 8], [1, 0], [0, 1]),
    ]
    for tokens, positions, seq_ids, rows in batches:
        result = stream.step(tokens, positions, seq_ids, [want_logits(row) for row in rows])
        expected = step(whole, tokens, positions, seq_ids, rows)
        assert [row.seq_id for row in result.rows] == [seq_ids[row] for row in rows]
        assert all(same(*pair) for pair in zip(result.rows, expected, strict=True))
    assert stream.finish() == len(batches)


def generate(stream: FedStream, prompt: list[int], n: int, **sampler: object) -> list[int]:
    """`n` tokens sampled on the last stage, one frame each."""
    operations = [greedy_sampler(0, prompt_tokens=prompt, **sampler)]
    result = stream.step(
        prompt, list(range(len(prompt))), [0] * len(prompt), [want_token(len(prompt) - 1)],
        sampler_operations=operations,
    )  # fmt: skip
    tokens = [result.rows[0].sampled.token]
    while len(tokens) < n:
        position = len(prompt) + len(tokens) - 1
        result = stream.step(tokens[-1:], [position], [0], [want_token(0)])
        tokens.append(result.rows[0].sampled.token)
    return tokens


def generate_whole(
    context: Context, vocabulary_of: Path, prompt: list[int], n: int, params: SamplingParams
) -> list[int]:
    with Model.load(vocabulary_of) as model, Sampler(model.vocabulary, params, prompt_tokens=prompt) as sampler:
        step(context, prompt, list(range(len(prompt))), [0] * len(prompt), [len(prompt) - 1])
        tokens = [sampler.sample(context, len(prompt) - 1).token]
        while len(tokens) < n:
            step(context, tokens[-1:], [len(prompt) + len(tokens) - 1], [0], [0])
            tokens.append(sampler.sample(context, 0).token)
    return tokens


def test_greedy_tokens_are_those_of_the_whole_model(lines: Lines, whole: Context, model: Path) -> None:
    tokens = generate(lines.open("greedy"), PROMPT, 24)
    assert tokens == generate_whole(whole, model, PROMPT, 24, SamplingParams(temperature=0))


SEEDED = {"temperature": 1.2, "top_k": 50, "top_p": 0.95, "seed": 1234, "repeat_penalty": 1.1, "repeat_last_n": 64}


def test_seeded_tokens_are_those_of_the_whole_model(lines: Lines, whole: Context, model: Path) -> None:
    tokens = generate(lines.open("seeded"), PROMPT, 24, **SEEDED)
    params = SamplingParams(**(SEEDED | {"min_p": 0.0}))  # type: ignore[arg-type]
    assert tokens == generate_whole(whole, model, PROMPT, 24, params)


def test_a_sampler_opened_with_a_history_continues_as_if_uninterrupted(lines: Lines) -> None:
    stream = lines.open("resumed", 1)
    whole_run = generate(stream, PROMPT, 20, **SEEDED)
    stream.finish()
    stream = lines.open("resumed", 2)
    told, n_prompt = whole_run[:8], len(PROMPT)
    # The cache is filled in the same batches, so that the logits are the same to the last bit.
    stream.step(PROMPT, list(range(n_prompt)), [0] * n_prompt)
    for index, token in enumerate(told[:-1]):
        stream.step([token], [n_prompt + index], [0])
    tokens = list(told)
    operations = [greedy_sampler(0, prompt_tokens=PROMPT, generated_tokens=told, **SEEDED)]
    while len(tokens) < 20:
        position = n_prompt + len(tokens) - 1
        result = stream.step(tokens[-1:], [position], [0], [want_token(0)], sampler_operations=operations)
        tokens.append(result.rows[0].sampled.token)
        operations = []
    assert tokens == whole_run


def test_logprobs_come_with_the_token(lines: Lines, whole: Context) -> None:
    stream = lines.open("logprobs")
    result = stream.step(
        PROMPT, list(range(7)), [0] * 7, [frame_pb2.OutputRow(row=6, sample=True, logits=True)],
        sampler_operations=[greedy_sampler(0, logprobs=True, n_top_logprobs=5)],
    )  # fmt: skip
    row = result.rows[0]
    logits = row_logits(row).astype(np.float64)
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    likeliest = np.argsort(-expected, kind="stable")[:5]
    assert row.sampled.token == likeliest[0]
    assert row.sampled.logprob == pytest.approx(expected.max(), abs=1e-4)
    assert [entry.token for entry in row.sampled.top] == likeliest.tolist()
    assert [entry.logprob for entry in row.sampled.top] == pytest.approx(expected[likeliest].tolist(), abs=1e-4)


def test_kv_operations_are_carried_out_on_every_stage(lines: Lines, whole: Context) -> None:
    stream = lines.open("kv")
    stream.step(PROMPT, list(range(7)), [0] * 7)
    step(whole, PROMPT, list(range(7)), [0] * 7, [6])
    copy = frame_pb2.KvOperation(copy=frame_pb2.KvCopy(source_seq_id=0, target_seq_id=2, start=0, end=-1))
    cut = frame_pb2.KvOperation(remove=frame_pb2.KvRemove(seq_id=2, start=4, end=-1))
    result = stream.step([50], [4], [2], [want_logits(0)], kv_operations=[copy, cut])
    whole.kv_copy(0, 2, 0, -1)
    assert whole.kv_remove(2, 4, -1)
    assert same(result.rows[0], step(whole, [50], [4], [2], [0])[0])

    shift = frame_pb2.KvOperation(shift=frame_pb2.KvShift(seq_id=2, start=0, end=-1, delta=3))
    result = stream.step([60], [8], [2], [want_logits(0)], kv_operations=[shift])
    whole.kv_shift(2, 0, -1, 3)
    assert same(result.rows[0], step(whole, [60], [8], [2], [0])[0])


def test_keeping_one_sequence_forgets_the_others(lines: Lines) -> None:
    # llama.cpp's meaning: the others in the same cache, which a unified one is for all.
    stream = lines.open("keep", kv_unified=True)
    stream.step([3, 4, 5, 6], [0, 1, 0, 1], [0, 0, 1, 1])
    keep = frame_pb2.KvOperation(keep=frame_pb2.KvKeep(seq_id=1))
    stream.step([], [], [], kv_operations=[keep])
    # Sequence 0 begins anew, sequence 1 goes on.
    assert len(stream.step([7, 8], [0, 2], [0, 1], [want_logits(0), want_logits(1)]).rows) == 2


def test_operations_alone_make_a_frame_and_a_result(lines: Lines) -> None:
    stream = lines.open("operations")
    result = stream.step([], [], [], sampler_operations=[greedy_sampler(1)])
    assert list(result.rows) == []
    assert result.frame_number == 1


def test_several_frames_in_flight_are_answered_in_order(lines: Lines, whole: Context) -> None:
    stream = lines.open("flight")
    for position in range(40):
        stream.send(stream.frame([position + 3], [position], [0], [want_logits(0)]))
    for position in range(40):
        result = stream.result()
        assert result.frame_number == position + 1
        assert same(result.rows[0], step(whole, [position + 3], [position], [0], [0])[0])
    assert stream.finish() == 40


def test_every_stage_reports_when_it_handled_a_frame(lines: Lines) -> None:
    stream = lines.open("timings")
    result = stream.step([3], [0], [0], [want_logits(0)])
    assert [timing.worker for timing in result.timings] == ["one", "two"]
    for timing in result.timings:
        assert 0 < timing.arrived_ns <= timing.started_ns <= timing.finished_ns <= timing.sent_ns


def test_a_row_that_cannot_be_sampled_says_why_and_the_line_goes_on(lines: Lines) -> None:
    stream = lines.open("rows")
    operations = [greedy_sampler(0), greedy_sampler(1, grammar="this is no grammar")]
    result = stream.step(
        [3, 4, 5], [0, 0, 0], [0, 1, 2], [want_token(0), want_token(1), want_token(2)], sampler_operations=operations
    )
    fine, no_grammar, no_sampler = result.rows
    assert fine.HasField("sampled")
    assert not fine.error
    assert "grammar" in no_grammar.error
    assert "no sampler" in no_sampler.error
    assert not no_grammar.HasField("sampled")
    assert stream.step([6], [1], [0], [want_token(0)]).rows[0].HasField("sampled")


def test_penalties_over_the_whole_context_are_no_matter_of_gigabytes(lines: Lines) -> None:
    stream = lines.open("penalties")
    operations = [greedy_sampler(0, repeat_penalty=1.5, repeat_last_n=-1, prompt_tokens=PROMPT)]
    result = stream.step([3], [0], [0], [want_token(0)], sampler_operations=operations)
    timing = result.timings[-1]
    assert result.rows[0].HasField("sampled")
    assert timing.finished_ns - timing.started_ns < 1_000_000_000


def test_a_closed_sampler_is_gone(lines: Lines) -> None:
    stream = lines.open("closed")
    stream.step([3], [0], [0], [want_token(0)], sampler_operations=[greedy_sampler(0)])
    close = frame_pb2.SamplerOperation(close=frame_pb2.SamplerClose(seq_id=0))
    result = stream.step([4], [1], [0], [want_token(0)], sampler_operations=[close])
    assert "no sampler" in result.rows[0].error


def test_a_new_epoch_starts_with_an_empty_cache(lines: Lines, whole: Context) -> None:
    first = lines.open("epochs", 1)
    first.step(PROMPT, list(range(7)), [0] * 7)
    first.finish()
    second = lines.open("epochs", 2)
    result = second.step([9], [0], [0], [want_logits(0)])
    assert same(result.rows[0], step(whole, [9], [0], [0], [0])[0])


def test_a_unified_cache_gives_the_same_too(lines: Lines, model: Path) -> None:
    stream = lines.open("unified", kv_unified=True)
    params = ContextParams(n_ctx_seq=256, n_batch=64, n_ubatch=64, kv_unified=True, n_threads=1)
    with Model.load(model) as loaded, Context(loaded, params) as context:
        for tokens, positions, seq_ids in (([3, 4, 5], [0, 1, 0], [0, 0, 1]), ([6, 7], [2, 1], [0, 1])):
            rows = list(range(len(tokens)))
            result = stream.step(tokens, positions, seq_ids, [want_logits(row) for row in rows])
            expected = step(context, tokens, positions, seq_ids, rows)
            assert all(same(*pair) for pair in zip(result.rows, expected, strict=True))


def test_one_worker_alone_is_a_line_too(lines: Lines, whole: Context, model: Path) -> None:
    worker = lines.first
    worker.load(load_request(stage_spec(model, 0, lines.n_layer), session_id="alone"))
    stream = FedStream(worker, worker, "alone")
    result = stream.step(PROMPT, list(range(7)), [0] * 7, [want_logits(6)])
    assert same(result.rows[0], step(whole, PROMPT, list(range(7)), [0] * 7, [6])[0])
    stream.finish()


def test_void_frames_that_some_stages_computed_and_others_dropped_leave_no_trace(lines: Lines, whole: Context) -> None:
    stream = lines.open("void")
    chance = random.Random(1)
    text = [chance.randrange(300) for _ in range(40)]
    remove = frame_pb2.KvOperation(remove=frame_pb2.KvRemove(seq_id=0, start=0, end=-1))
    n_dropped = 0
    for _ in range(40):
        n_text = chance.randrange(20, 40)
        stream.send(stream.frame(text[:n_text], list(range(n_text)), [0] * n_text, kv_operations=[remove]))
        ahead = [stream.n_fed + 1 + number for number in range(6)]
        for position in range(n_text, n_text + len(ahead)):
            stream.send(stream.frame([chance.randrange(300)], [position], [0], [want_logits(0)]))
        time.sleep(chance.uniform(0, 0.006))
        stream.call_void(ahead[1:] if chance.random() < 0.3 else ahead)
        forget = frame_pb2.KvOperation(remove=frame_pb2.KvRemove(seq_id=0, start=n_text, end=-1))
        stream.send(stream.frame([7], [n_text], [0], [want_logits(0)], kv_operations=[forget]))
        assert not stream.result().rows
        n_dropped += sum(not stream.result().rows for _ in ahead)
        result = stream.result()
        whole.kv_clear()
        step(whole, text[:n_text], list(range(n_text)), [0] * n_text, [])
        (expected,) = step(whole, [7], [n_text], [0], [0])
        assert result.frame_number == stream.n_fed
        assert same(result.rows[0], expected)
    assert 0 < n_dropped < 40 * 6


def test_chained_rows_are_computed_with_what_was_sampled_before_anybody_knows_it(
    lines: Lines, whole: Context, model: Path
) -> None:
    stage = stage_spec(model, 0, lines.n_layer)
    stage.is_draft = True
    lines.first.load(load_request(stage, session_id="draft"))
    assert lines.first.health().session_id != "draft"
    stream = FedStream(lines.first, lines.first, "draft")
    stream.send(stream.frame(PROMPT, list(range(7)), [0] * 7, [want_token(6)], sampler_operations=[greedy_sampler(0)]))
    for position in range(7, 12):
        stream.send(stream.frame([0], [position], [0], [want_token(0)], chained=[0]))
    tokens = [stream.result().rows[0].sampled.token for _ in range(6)]
    assert tokens == generate_whole(whole, model, PROMPT, 6, SamplingParams(temperature=0))
    # Beside it the worker holds stages of lines, as ever.
    assert generate(lines.open("beside"), PROMPT, 6) == tokens
    stream.finish()
    assert lines.first.unload("draft")
