# SPDX-License-Identifier: MIT
"""Echoes, and the link from one worker to another that is measured with them."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from protos.caravan.v1 import control_pb2, error_pb2
from protos.contract import CONTROL_LIMIT_BYTES
from tests.ports import nobodys_address
from tests.worker.driver import CALL_TIMEOUT_S, WorkerProcess, failure
from worker.link import link_of


def measure(worker: WorkerProcess, address: str, name: str = "") -> control_pb2.MeasureLinkResponse:
    request = control_pb2.MeasureLinkRequest(address=address, worker=name)
    return worker.control.MeasureLink(request, timeout=CALL_TIMEOUT_S)


@pytest.mark.parametrize("n_bytes", [0, 1000, CONTROL_LIMIT_BYTES])
def test_an_echo_is_what_was_sent(pair: tuple[WorkerProcess, WorkerProcess], n_bytes: int) -> None:
    data = bytes(range(256)) * (n_bytes // 256)
    answer = pair[0].control.Echo(control_pb2.EchoRequest(data=data), timeout=CALL_TIMEOUT_S)
    assert answer.data == data


def test_too_much_does_not_come_back(pair: tuple[WorkerProcess, WorkerProcess]) -> None:
    request = control_pb2.EchoRequest(data=bytes(CONTROL_LIMIT_BYTES + 1))
    with pytest.raises(grpc.RpcError) as caught:
        pair[0].control.Echo(request, timeout=CALL_TIMEOUT_S)
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 4 MiB" in detail.message


def test_a_worker_measures_its_link_to_another(pair: tuple[WorkerProcess, WorkerProcess]) -> None:
    link = measure(pair[0], pair[1].address, "two")
    assert 0 < link.round_trip_s < 1
    # On loopback; a slow machine copies as fast.
    assert link.bytes_per_s > 10e6


def test_a_link_is_told_by_the_difference_of_large_and_small_echoes() -> None:
    sent: list[int] = []

    def echo_s(n_bytes: int) -> float:
        sent.append(n_bytes)
        # The first of each size is slow, one of the others too.
        delay_s = 5.0 if sent.count(n_bytes) in (1, 3) else 0.002
        return delay_s + 2 * n_bytes / 100e6

    link = link_of(echo_s)
    assert link.round_trip_s == pytest.approx(0.002)
    assert link.bytes_per_s == pytest.approx(100e6)


def test_a_link_that_is_too_fast_to_tell_has_a_bandwidth_all_the_same() -> None:
    link = link_of(lambda _: 0.001)
    assert link.round_trip_s == 0.001
    assert 1e9 < link.bytes_per_s < float("inf")


def test_a_worker_that_is_not_there_is_named(pair: tuple[WorkerProcess, WorkerProcess]) -> None:
    with nobodys_address() as address, pytest.raises(grpc.RpcError) as caught:
        measure(pair[0], address, "cellar")
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert (detail.code, detail.worker) == (error_pb2.ERROR_CODE_NEIGHBOUR_LOST, "cellar")
    assert f"cellar cannot be reached at {address}" in detail.message


def test_something_else_than_a_worker_is_told_apart(pair: tuple[WorkerProcess, WorkerProcess]) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(grpc.RpcError) as caught:
        measure(pair[0], f"127.0.0.1:{port}", "cellar")
    server.stop(0).wait()
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "no worker that can echo" in detail.message
    assert not detail.retry_safe


def test_what_is_no_address_is_refused(pair: tuple[WorkerProcess, WorkerProcess]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        measure(pair[0], "nowhere")
    status, detail = failure(caught.value)
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    assert "'nowhere' is no HOST:PORT" in detail.message
