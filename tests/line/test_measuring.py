# SPDX-License-Identifier: MIT
"""What the coordinator learns from real workers about their speed and their links."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from coordinator.control import WorkerClient
from coordinator.errors import PlanError, WorkerBusyError, WorkerLostError
from coordinator.orders import BenchmarkOrder, StageOrder, StageSources
from native import ContextParams, LayerRange, read_layout
from protos.channels import PLAIN
from tests.line.processes import WorkerProcess

_SESSION = "s"


@pytest.fixture
def order(demo_path: Path) -> BenchmarkOrder:
    """Two runs of the demo model."""
    return BenchmarkOrder(
        path=str(demo_path),
        identity=read_layout(demo_path).identity,
        params=ContextParams(n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=64),
        runs=(LayerRange(0, 1), LayerRange(1, 3)),
        batch_sizes=(1, 64),
        limit_s=5.0,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the worker keeps what it measures."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shed(cache: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess("shed", cache=cache)
    yield worker
    worker.stop()


@pytest_asyncio.fixture
async def client(shed: WorkerProcess, cache: Path) -> AsyncIterator[WorkerClient]:
    """The control side of a worker that holds nothing and remembers nothing."""
    shutil.rmtree(cache, ignore_errors=True)
    client = WorkerClient(shed.address, PLAIN, shed.name)
    yield client
    await client.unload(_SESSION)
    await client.close()


async def test_a_benchmark_has_each_run_with_its_points(client: WorkerClient, order: BenchmarkOrder) -> None:
    benchmarked = await client.benchmark(order)
    assert tuple(run.layers for run in benchmarked.runs) == order.runs
    for run in benchmarked.runs:
        assert [n_tokens for n_tokens, _ in run.points] == [1, 64]
        assert all(seconds > 0 for _, seconds in run.points)
    assert not benchmarked.was_remembered
    assert await client.benchmark(order) == replace(benchmarked, was_remembered=True)


async def test_a_worker_that_holds_a_stage_is_busy(client: WorkerClient, order: BenchmarkOrder) -> None:
    stage = StageOrder(order.path, order.identity, order.runs[0], order.params)
    await client.load(_SESSION, 1, stage, None, None, StageSources(), on_report=print, on_needed=print)
    with pytest.raises(WorkerBusyError, match="shed"):
        await client.benchmark(order)


async def test_what_cannot_be_measured_is_an_error_of_the_plan(client: WorkerClient, order: BenchmarkOrder) -> None:
    with pytest.raises(PlanError, match="a batch of 65 tokens"):
        await client.benchmark(replace(order, batch_sizes=(65,)))


async def test_a_benchmark_that_is_called_off_ends_on_the_worker(client: WorkerClient, order: BenchmarkOrder) -> None:
    params = replace(order.params, n_ctx_seq=1024, n_batch=1024, n_ubatch=1024)
    long_order = replace(order, params=params, batch_sizes=tuple(range(1, 1025)), limit_s=600.0)
    task = asyncio.create_task(client.benchmark(long_order))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadline_s = time.monotonic() + 60
    while await _is_busy(client, order):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


async def _is_busy(client: WorkerClient, order: BenchmarkOrder) -> bool:
    try:
        await client.benchmark(replace(order, batch_sizes=(1,)))
    except WorkerBusyError:
        return True
    return False


async def test_echoes_and_links_are_measured(client: WorkerClient, workers: list[WorkerProcess]) -> None:
    assert 0 < await client.echo(0) < 5
    assert 0 < await client.echo(1 << 20) < 5
    link = await client.measure_link(workers[0].address, workers[0].name)
    assert 0 < link.round_trip_s < 1
    assert link.bytes_per_s > 0


async def test_a_link_to_nowhere_names_who_is_not_there(client: WorkerClient) -> None:
    with pytest.raises(WorkerLostError, match="cellar cannot be reached") as caught:
        await client.measure_link("127.0.0.1:1", "cellar")
    assert caught.value.worker == "cellar"
