# SPDX-License-Identifier: MIT
"""The link to another worker: its round trip and bandwidth, measured with that worker's Echo. A gRPC client, called
on gRPC's threads.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from protos.caravan.v1 import control_pb2, control_pb2_grpc, error_pb2
from protos.channels import Channels
from protos.contract import channel_options
from worker.errors import NeighbourError
from worker.hop import check_reachable
from worker.session import Neighbour

_N_ROUND_TRIPS = 9
_N_TRANSFERS = 3
# A prefill frame of 128 tokens of 2048 floats: 8 ms on a gigabit link, long beside a round trip.
_TRANSFER_BYTES = 1 << 20
# For the largest message over 1 Mbit/s, there and back.
_ECHO_TIMEOUT_S = 20.0
# What is faster than the clock can tell.
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Link:
    """Seconds for an empty message and its answer, and bytes per second one way."""

    round_trip_s: float
    bytes_per_s: float


def measure_link(neighbour: Neighbour, channels: Channels) -> Link:
    """Blocks for some hundredths of a second on a LAN.

    Raises:
        NeighbourError: it cannot be reached, went away, or is no worker.
    """
    check_reachable(neighbour)
    with channels.channel(neighbour.address, channel_options()) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)

        def echo_s(n_bytes: int) -> float:
            request = control_pb2.EchoRequest(data=bytes(n_bytes))
            started_s = time.perf_counter()
            stub.Echo(request, timeout=_ECHO_TIMEOUT_S)
            return time.perf_counter() - started_s

        try:
            return link_of(echo_s)
        except grpc.RpcError as error:
            raise _neighbour_error(error, neighbour) from error


def link_of(echo_s: Callable[[int], float]) -> Link:
    """A link by how long echoes of so many bytes take; the first of each size is not counted (connections warm up)."""
    round_trip_s = _median_s(echo_s, 0, _N_ROUND_TRIPS)
    transfer_s = _median_s(echo_s, _TRANSFER_BYTES, _N_TRANSFERS) - round_trip_s
    return Link(round_trip_s, 2 * _TRANSFER_BYTES / max(transfer_s, _SHORTEST_S))


def _median_s(echo_s: Callable[[int], float], n_bytes: int, n_times: int) -> float:
    from statistics import median  # here, as it brings much that no other part of a worker needs

    echo_s(n_bytes)
    return median(echo_s(n_bytes) for _ in range(n_times))


def _neighbour_error(error: grpc.RpcError, neighbour: Neighbour) -> NeighbourError:
    name, address = neighbour.name, neighbour.address
    is_worker = error.code() is not grpc.StatusCode.UNIMPLEMENTED
    reason = error.details() or error.code().name
    message = (
        f"the link to worker {name} at {address} could not be measured: {reason}"
        if is_worker
        else f"what answers at {address} is no worker that can echo; {name} should be there"
    )
    code = error_pb2.ERROR_CODE_NEIGHBOUR_LOST
    return NeighbourError(error_pb2.ErrorDetail(code=code, message=message, worker=name, retry_safe=is_worker))
