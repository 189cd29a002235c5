# SPDX-License-Identifier: MIT
"""The worker's one session as a state machine, without any stage behind it."""

import pytest

from native import ContextParams, LayerRange
from protos.caravan.v1 import error_pb2
from worker import session
from worker.errors import InUseError, LoadUnderWayError, NoSuchSessionError, WrongEpochError
from worker.session import IDLE, LoadOrder, Neighbour, Phase, SessionState, StageSpec, StreamPhase

SPEC = StageSpec("/m.gguf", "ab", LayerRange(4, 8), ContextParams())


def order(session_id: str = "s", epoch: int = 1, *, is_last: bool = True) -> LoadOrder:
    return LoadOrder(session_id, epoch, SPEC, None if is_last else Neighbour("next", "10.0.0.2:1"))


def ready(of: LoadOrder | None = None) -> SessionState:
    return session.finish_load(session.begin_load(IDLE, of or order()))


def test_a_load_makes_an_idle_worker_ready() -> None:
    loading = session.begin_load(IDLE, order())
    assert loading.phase is Phase.LOADING
    assert ready().phase is Phase.READY
    assert (ready().session_id, ready().epoch) == ("s", 1)


def test_a_second_load_is_refused_while_one_runs() -> None:
    with pytest.raises(LoadUnderWayError, match="loading session s"):
        session.begin_load(session.begin_load(IDLE, order()), order("other"))


def test_a_load_is_refused_while_a_stage_is_unloaded() -> None:
    with pytest.raises(LoadUnderWayError, match="unloading session s"):
        session.begin_load(session.begin_unload(ready()), order("other"))


def test_a_benchmark_and_a_load_keep_each_other_out() -> None:
    benchmarking = session.begin_benchmark(IDLE)
    assert (benchmarking.phase, benchmarking.session_id) == (Phase.BENCHMARKING, "")
    with pytest.raises(LoadUnderWayError, match="runs a benchmark; try again"):
        session.begin_load(benchmarking, order())
    with pytest.raises(LoadUnderWayError, match="runs a benchmark"):
        session.begin_benchmark(benchmarking)
    with pytest.raises(LoadUnderWayError, match="loading session s"):
        session.begin_benchmark(session.begin_load(IDLE, order()))


def test_a_stage_that_is_loaded_keeps_a_benchmark_out() -> None:
    failed = session.fail(ready(), error_pb2.ErrorDetail())
    for state in (ready(), session.open_feed(ready(), "s", 1), failed):
        with pytest.raises(InUseError, match="holds a stage of session s"):
            session.begin_benchmark(state)


def test_no_stream_opens_during_a_benchmark() -> None:
    with pytest.raises(NoSuchSessionError):
        session.open_feed(session.begin_benchmark(IDLE), "s", 1)


def test_the_same_order_again_is_known_to_be_loaded() -> None:
    assert session.is_loaded(ready(), order())
    assert not session.is_loaded(ready(), order(epoch=2))
    assert not session.is_loaded(ready(), order(is_last=False))
    assert not session.is_loaded(session.begin_load(IDLE, order()), order())


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_that_is_not_later_is_refused(epoch: int) -> None:
    with pytest.raises(WrongEpochError, match="at epoch 2"):
        session.begin_load(ready(order(epoch=2)), order(epoch=epoch, is_last=False))


def test_another_session_may_start_at_any_epoch() -> None:
    assert session.begin_load(ready(order(epoch=7)), order("other", 1)).session_id == "other"


def test_a_worker_that_serves_one_session_is_not_loaded_for_another() -> None:
    serving = session.open_feed(ready(), "s", 1)
    with pytest.raises(InUseError, match="serves session s"):
        session.begin_load(serving, order("other"))
    assert session.begin_load(serving, order(epoch=2)).epoch == 2
    assert session.begin_load(session.end_feed(serving, n_frames=3), order("other")).session_id == "other"


def test_a_stage_whose_coordinator_is_gone_is_another_ones_also_while_a_step_is_computed() -> None:
    left = session.leave(session.open_feed(ready(), "s", 1))
    assert not left.is_serving
    assert session.begin_load(left, order("other")).session_id == "other"


def test_another_session_waits_while_one_is_served() -> None:
    serving = session.open_feed(ready(), "s", 1)
    assert serving.is_serving
    with pytest.raises(InUseError, match="serves session s"):
        session.begin_load(serving, order("other"))
    assert session.begin_load(serving, order("s", 2)).phase is Phase.LOADING
    over = session.end_feed(serving, n_frames=3)
    assert not over.is_serving
    assert session.begin_load(over, order("other")).session_id == "other"


def test_a_stage_that_stays_warm_is_of_no_session_and_keeps_nothing_out() -> None:
    warm = session.keep(session.begin_unload(session.fail(ready(order(epoch=2)), error_pb2.ErrorDetail())))
    assert not warm.is_over
    with pytest.raises(NoSuchSessionError, match="load it first"):
        session.open_feed(warm, "s", 2)
    assert session.begin_benchmark(warm).phase is Phase.BENCHMARKING
    assert session.begin_load(warm, order("other")).session_id == "other"
    with pytest.raises(WrongEpochError, match="at epoch 2"):
        session.begin_load(warm, order(epoch=2))
    assert warm.error is not None
    assert session.begin_load(warm, order(epoch=3)).error is None


def test_a_session_is_over_without_a_feed_only_once_it_is_loaded() -> None:
    assert not session.begin_load(IDLE, order()).is_over
    assert not session.open_feed(ready(), "s", 1).is_over
    assert session.end_feed(session.open_feed(ready(), "s", 1), n_frames=3).is_over


def test_a_stream_of_a_session_that_is_not_here_is_refused() -> None:
    for state in (IDLE, session.begin_load(IDLE, order()), ready(order("other"))):
        with pytest.raises(NoSuchSessionError):
            session.open_feed(state, "s", 1)
        with pytest.raises(NoSuchSessionError):
            session.open_collect(state, "s", 1)


def test_a_stream_of_another_epoch_is_refused() -> None:
    with pytest.raises(WrongEpochError, match="at epoch 1 on this worker, not 2"):
        session.open_feed(ready(), "s", 2)


def test_only_one_feed_and_one_collect_are_open_at_a_time() -> None:
    state = session.open_collect(session.open_feed(ready(), "s", 1), "s", 1)
    with pytest.raises(WrongEpochError, match="Feed of epoch 1 is open already"):
        session.open_feed(state, "s", 1)
    with pytest.raises(WrongEpochError, match="Collect of epoch 1 is open already"):
        session.open_collect(state, "s", 1)


def test_results_come_from_the_last_stage_only() -> None:
    with pytest.raises(WrongEpochError, match="not the last"):
        session.open_collect(ready(order(is_last=False)), "s", 1)


def test_a_feed_that_carried_nothing_may_be_opened_again() -> None:
    state = session.end_feed(session.open_feed(ready(), "s", 1), n_frames=0)
    assert session.open_feed(state, "s", 1).feed is StreamPhase.OPEN


def test_a_feed_that_carried_frames_needs_a_new_epoch() -> None:
    state = session.end_feed(session.open_feed(ready(), "s", 1), n_frames=1)
    with pytest.raises(WrongEpochError, match="load a later epoch"):
        session.open_feed(state, "s", 1)
    assert session.begin_load(state, order(epoch=2)).phase is Phase.LOADING


def test_a_collect_may_be_opened_again_before_the_feed() -> None:
    state = session.end_collect(session.open_collect(ready(), "s", 1))
    assert session.open_collect(state, "s", 1).collect is StreamPhase.OPEN


def test_a_failed_epoch_keeps_its_first_reason_and_takes_no_stream() -> None:
    first = error_pb2.ErrorDetail(message="first")
    state = session.fail(session.fail(ready(), first), error_pb2.ErrorDetail(message="second"))
    assert (state.phase, state.error) == (Phase.FAILED, first)
    with pytest.raises(WrongEpochError, match="failed"):
        session.open_feed(state, "s", 1)
    assert session.begin_load(state, order(epoch=2)).error is None
