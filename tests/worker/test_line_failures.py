# SPDX-License-Identifier: MIT
"""What a line says when something is wrong with it: the right status, the culprit's name, and a worker that lives."""

import time
from pathlib import Path

import grpc
import pytest

from native import read_layout
from protos.caravan.v1 import control_pb2, error_pb2, frame_pb2
from tests.worker.conftest import Lines, StartWorker
from tests.worker.driver import (
    CALL_TIMEOUT_S,
    FedStream,
    WorkerProcess,
    context_params,
    failure,
    greedy_sampler,
    load_request,
    stage_spec,
    stream_metadata,
    want_logits,
    want_token,
)


def feed_failure(stream: FedStream) -> tuple[grpc.StatusCode, error_pb2.ErrorDetail]:
    """How the Feed ended."""
    error = stream.feed.exception(timeout=CALL_TIMEOUT_S)
    assert isinstance(error, grpc.RpcError), error
    return failure(error)


def collect_failure(stream: FedStream) -> tuple[grpc.StatusCode, error_pb2.ErrorDetail]:
    """How the Collect ended."""
    with pytest.raises(grpc.RpcError) as caught:
        stream.result()
    return failure(caught.value)


def wait_for_state(worker: WorkerProcess, state: control_pb2.WorkerState) -> control_pb2.HealthResponse:
    """Its health once it is in that state."""
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while (health := worker.health()).state != state:
        assert time.monotonic() < deadline, health
        time.sleep(0.01)
    return health


def test_a_frame_out_of_order_fails_the_epoch_and_a_later_one_works(lines: Lines) -> None:
    stream = lines.open("order")
    frame = stream.frame([3], [0], [0])
    frame.number = 2
    stream.send(frame)
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert detail.code == error_pb2.ERROR_CODE_BAD_FRAME
    assert (detail.worker, detail.layer_start, detail.layer_end) == ("one", 0, lines.n_layer // 2)
    assert detail.message == "frame 2 came where frame 1 was due"
    assert collect_failure(stream)[0] is grpc.StatusCode.UNAVAILABLE
    health = wait_for_state(lines.first, control_pb2.WORKER_STATE_FAILED)
    assert health.error == detail
    again = lines.open("order", 2)
    assert len(again.step([3], [0], [0], [want_logits(0)]).rows) == 1


def test_a_frame_of_another_session_is_refused(lines: Lines) -> None:
    stream = lines.open("mine")
    frame = stream.frame([3], [0], [0])
    frame.session_id = "yours"
    stream.send(frame)
    assert feed_failure(stream)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_fault_that_only_the_last_stage_sees_is_told_by_its_name(lines: Lines) -> None:
    stream = lines.open("deep")
    # Samplers are the last stage's business.
    stream.send(stream.frame([3], [0], [0], sampler_operations=[greedy_sampler(9)]))
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert (detail.worker, detail.layer_start) == ("two", lines.n_layer // 2)
    assert collect_failure(stream) == (status, detail)


def test_llama_cpps_failure_fails_the_epoch_and_a_later_one_works(lines: Lines) -> None:
    stream = lines.open("gap")
    stream.step([3], [0], [0])
    # llama.cpp refuses a sequence whose positions go back.
    stream.send(stream.frame([4], [0], [0]))
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.INTERNAL
    assert detail.code == error_pb2.ERROR_CODE_ENGINE
    again = lines.open("gap", 2)
    assert len(again.step([3], [0], [0], [want_logits(0)]).rows) == 1


def test_a_missing_crossing_tensor_is_named_and_never_computed_with(lines: Lines) -> None:
    lines.load("crossing")
    stream = FedStream(lines.last, lines.last, "crossing")
    stream.send(stream.frame([3], [0], [0], [want_logits(0)]))
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.DATA_LOSS
    assert detail.code == error_pb2.ERROR_CODE_CROSSING
    assert detail.worker == "two"
    assert collect_failure(stream) == (status, detail)


def test_garbage_on_the_wire_ends_the_feed(lines: Lines) -> None:
    lines.load("garbage")
    feed: grpc.StreamUnaryMultiCallable[bytes, bytes] = lines.first.channel.stream_unary("/caravan.v1.LineService/Feed")
    call = feed.future(iter([b"\xff\xff\xff not a frame"]), metadata=stream_metadata("garbage"))
    error = call.exception(timeout=CALL_TIMEOUT_S)
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.Call)
    assert error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
    assert lines.first.health().session_id == "garbage"


@pytest.mark.parametrize("metadata", [(), stream_metadata("a b", 1), stream_metadata("s", -1)])
def test_a_stream_without_proper_metadata_is_refused(lines: Lines, metadata: tuple[tuple[str, str], ...]) -> None:
    call = lines.first.line.Feed.future(iter(()), metadata=metadata, timeout=CALL_TIMEOUT_S)
    error = call.exception()
    assert isinstance(error, grpc.RpcError)
    assert failure(error)[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_streams_of_what_is_not_loaded_are_refused(lines: Lines) -> None:
    lines.load("loaded", 2)
    for worker, session_id, epoch, status in (
        (lines.first, "unknown", 2, grpc.StatusCode.NOT_FOUND),
        (lines.first, "loaded", 1, grpc.StatusCode.FAILED_PRECONDITION),
        (lines.first, "loaded", 3, grpc.StatusCode.FAILED_PRECONDITION),
    ):
        metadata = stream_metadata(session_id, epoch)
        error = worker.line.Feed.future(iter(()), metadata=metadata).exception(timeout=CALL_TIMEOUT_S)
        assert isinstance(error, grpc.RpcError)
        assert failure(error)[0] is status
    with pytest.raises(grpc.RpcError) as caught:
        next(iter(lines.first.line.Collect(frame_pb2.CollectRequest(), metadata=stream_metadata("loaded", 2))))
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert "not the last" in detail.message


def test_a_second_feed_of_an_epoch_is_refused(lines: Lines) -> None:
    stream = lines.open("once")
    second = lines.first.line.Feed.future(iter(()), metadata=stream_metadata("once"))
    error = second.exception(timeout=CALL_TIMEOUT_S)
    assert isinstance(error, grpc.RpcError)
    assert failure(error)[0] is grpc.StatusCode.FAILED_PRECONDITION
    assert len(stream.step([3], [0], [0], [want_logits(0)]).rows) == 1


def test_a_frame_before_the_collect_is_refused(lines: Lines) -> None:
    lines.load("early")
    stream = FedStream(lines.first, None, "early")
    stream.send(stream.frame([3], [0], [0], [want_logits(0)]))
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "Collect" in detail.message
    assert detail.worker == "two"


def test_a_coordinator_that_went_away_may_come_back_if_nothing_was_processed(lines: Lines) -> None:
    lines.open("patient").cancel()
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while True:
        again = lines.stream("patient")
        if again.is_connected and again.is_collecting:
            break
        # The workers may still be noticing that the streams before are gone; what they open late would be in the way.
        again.cancel()
        time.sleep(0.3)
        assert time.monotonic() < deadline
    assert len(again.step([3], [0], [0], [want_logits(0)]).rows) == 1
    again.finish()


def test_a_coordinator_that_went_away_needs_a_new_epoch_after_the_first_frame(lines: Lines) -> None:
    stream = lines.open("impatient")
    stream.step([3], [0], [0])
    stream.cancel()
    for worker in (lines.first, lines.last):
        wait_for_state(worker, control_pb2.WORKER_STATE_READY)
    time.sleep(0.2)
    call = lines.first.line.Feed.future(iter(()), metadata=stream_metadata("impatient"))
    error = call.exception(timeout=CALL_TIMEOUT_S)
    assert isinstance(error, grpc.RpcError)
    status, detail = failure(error)
    assert status is grpc.StatusCode.FAILED_PRECONDITION
    assert "load a later epoch" in detail.message
    assert len(lines.open("impatient", 2).step([3], [0], [0], [want_logits(0)]).rows) == 1


def test_a_reader_of_results_that_goes_away_ends_the_feed(lines: Lines) -> None:
    stream = lines.open("unread")
    stream.step([3], [0], [0])
    stream.collect.cancel()
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "reader of the results went away" in detail.message


def test_a_new_load_ends_the_streams_of_the_old_epoch(lines: Lines) -> None:
    stream = lines.open("replaced")
    stream.step([3], [0], [0])
    lines.load("replaced", 2)
    assert feed_failure(stream)[0] in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE)
    assert collect_failure(stream)[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_a_session_that_is_served_is_not_taken_away(lines: Lines, model: Path) -> None:
    stream = lines.open("busy")
    other = load_request(stage_spec(model, 0, 2), session_id="other")
    with pytest.raises(grpc.RpcError) as caught:
        lines.first.load(other)
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.ABORTED
    assert "session busy" in detail.message
    (loaded,) = lines.first.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S).loaded
    assert loaded.is_serving
    assert len(stream.step([3], [0], [0], [want_logits(0)]).rows) == 1
    stream.finish()
    assert lines.first.load(other)[-1].HasField("loaded")


def test_unloading_ends_the_streams(lines: Lines) -> None:
    stream = lines.open("unloaded")
    stream.step([3], [0], [0])
    assert lines.first.unload("unloaded")
    assert feed_failure(stream)[0] is grpc.StatusCode.NOT_FOUND
    assert collect_failure(stream)[0] is grpc.StatusCode.UNAVAILABLE


def test_a_next_worker_that_is_not_there_is_named_with_its_address(start_worker: StartWorker, model: Path) -> None:
    first, gone = start_worker("--name", "first"), start_worker("--name", "cellar")
    first.load(load_request(stage_spec(model, 0, 2), next_worker=gone))
    gone.kill()
    call = first.line.Feed.future(iter(()), metadata=stream_metadata())
    error = call.exception(timeout=CALL_TIMEOUT_S)
    assert isinstance(error, grpc.RpcError)
    status, detail = failure(error)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert detail.code == error_pb2.ERROR_CODE_NEIGHBOUR_LOST
    assert detail.worker == "cellar"
    assert gone.address in detail.message
    assert detail.retry_safe
    assert first.health().state == control_pb2.WORKER_STATE_READY


def test_a_next_worker_that_has_not_loaded_says_so_itself(start_worker: StartWorker, model: Path) -> None:
    first, second = start_worker("--name", "first"), start_worker("--name", "second")
    first.load(load_request(stage_spec(model, 0, 2), next_worker=second))
    error = first.line.Feed.future(iter(()), metadata=stream_metadata()).exception(timeout=CALL_TIMEOUT_S)
    assert isinstance(error, grpc.RpcError)
    status, detail = failure(error)
    assert status is grpc.StatusCode.NOT_FOUND
    assert detail.worker == "second"


def test_a_next_worker_killed_in_mid_stream_is_named(start_worker: StartWorker, model: Path) -> None:
    n_layer = read_layout(model).n_layer
    first, last = start_worker("--name", "first"), start_worker("--name", "attic")
    last.load(load_request(stage_spec(model, 2, n_layer)))
    first.load(load_request(stage_spec(model, 0, 2), next_worker=last))
    stream = FedStream(first, last)
    stream.step([3], [0], [0], [want_logits(0)])
    last.kill()
    status, detail = feed_failure(stream)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert detail.code == error_pb2.ERROR_CODE_NEIGHBOUR_LOST
    assert detail.worker == "attic"
    assert last.address in detail.message
    stream.cancel()
    wait_for_state(first, control_pb2.WORKER_STATE_FAILED)
    alone = stage_spec(model, 0, n_layer)
    assert first.load(load_request(alone, epoch=2))[-1].HasField("loaded")


def test_a_worker_before_killed_in_mid_stream_ends_the_results(start_worker: StartWorker, model: Path) -> None:
    n_layer = read_layout(model).n_layer
    first, last = start_worker("--name", "first"), start_worker("--name", "last")
    last.load(load_request(stage_spec(model, 2, n_layer)))
    first.load(load_request(stage_spec(model, 0, 2), next_worker=last))
    stream = FedStream(first, last)
    stream.step([3], [0], [0], [want_logits(0)])
    first.kill()
    assert collect_failure(stream)[0] is grpc.StatusCode.UNAVAILABLE
    stream.cancel()
    assert last.health().state == control_pb2.WORKER_STATE_READY


def test_health_answers_while_it_computes(start_worker: StartWorker, heavy_model: Path) -> None:
    worker = start_worker()
    context = context_params(n_batch=512, n_ubatch=512, n_ctx_seq=1024)
    worker.load(load_request(stage_spec(heavy_model, 0, 4, context)))
    stream = FedStream(worker, worker)
    tokens = [3] * 512
    stream.send(stream.frame(tokens, range(512), [0] * 512, [want_logits(511)]))
    wait_for_state(worker, control_pb2.WORKER_STATE_COMPUTING)
    started = time.monotonic()
    assert worker.health().state == control_pb2.WORKER_STATE_COMPUTING
    about = worker.control.Describe(control_pb2.DescribeRequest(), timeout=CALL_TIMEOUT_S)
    assert about.loaded
    answered_s = time.monotonic() - started
    result = stream.result()
    computed_s = (result.timings[0].finished_ns - result.timings[0].started_ns) / 1e9
    assert answered_s < computed_s / 2
    stream.finish()


def test_an_epoch_replaced_while_it_computes_ends_after_its_step(start_worker: StartWorker, heavy_model: Path) -> None:
    worker = start_worker()
    context = context_params(n_batch=256, n_ubatch=256, n_ctx_seq=1024)
    stage = stage_spec(heavy_model, 0, 4, context)
    worker.load(load_request(stage))
    stream = FedStream(worker, worker)
    for start in (0, 256):
        stream.send(stream.frame([3] * 256, range(start, start + 256), [0] * 256))
    wait_for_state(worker, control_pb2.WORKER_STATE_COMPUTING)
    worker.load(load_request(stage, epoch=2))
    assert feed_failure(stream)[0] is grpc.StatusCode.FAILED_PRECONDITION
    again = FedStream(worker, worker, epoch=2)
    operations = [greedy_sampler(0)]
    result = again.step([5], [0], [0], [want_token(0)], sampler_operations=operations)
    assert result.rows[0].HasField("sampled")
    again.finish()
