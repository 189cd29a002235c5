# SPDX-License-Identifier: MIT
"""Finding real workers, by mDNS and by address, and who may take part."""

import secrets
import time
from dataclasses import replace

import pytest

from coordinator import (
    Distribution,
    DuplicateNameError,
    Mesh,
    VersionMismatchError,
    WorkerBusyError,
    WorkerLostError,
    discover,
)
from native import Versions, versions
from tests.line.conftest import N_CTX, StartWorker
from tests.line.processes import WorkerProcess

PATIENCE_S = 10.0
"""mDNS on a busy machine."""


@pytest.fixture
def unique() -> str:
    """Part of a name that no other worker on this network has."""
    return secrets.token_hex(4)


async def test_workers_that_show_themselves_are_found(start_worker: StartWorker, unique: str) -> None:
    names = [f"{unique}-a", f"{unique}-b"]
    workers = {name: start_worker(name, announced=True) for name in names}
    found = await discover(timeout_s=PATIENCE_S, wanted=2)
    order = [worker.name for worker in found.found]
    assert order == sorted(order)
    mine = {worker.name: worker for worker in found.found if worker.name in names}
    assert sorted(mine) == names
    for name, worker in mine.items():
        assert worker.address == workers[name].address
        assert worker.device.total_bytes >= worker.device.free_bytes > 0
        assert worker.versions.llama_cpp == versions().llama_cpp


async def test_listening_ends_early_when_enough_are_known(workers: list[WorkerProcess]) -> None:
    started = time.monotonic()
    found = await discover([worker.address for worker in workers[:2]], timeout_s=PATIENCE_S, wanted=2)
    assert time.monotonic() - started < PATIENCE_S / 2
    assert [worker.name for worker in found.found[:2]] == [worker.name for worker in workers[:2]]


async def test_a_worker_found_twice_counts_once(start_worker: StartWorker, unique: str) -> None:
    worker = start_worker(unique, announced=True)
    host, _, port = worker.address.rpartition(":")
    other_way = f"localhost:{port}"
    assert host == "127.0.0.1"
    found = await discover([worker.address, other_way], timeout_s=1.0)
    assert [found.address for found in found.found if found.name == unique] == [worker.address]


async def test_two_workers_with_one_name_are_an_error_with_both_addresses(start_worker: StartWorker) -> None:
    twins = [start_worker("twin"), start_worker("twin")]
    with pytest.raises(DuplicateNameError) as error:
        await discover([twin.address for twin in twins], mdns=False)
    assert error.value.addresses == tuple(twin.address for twin in twins)
    assert all(twin.address in error.value.message for twin in twins)


async def test_a_worker_of_another_build_is_left_out_with_the_command_that_fixes_it(
    workers: list[WorkerProcess],
) -> None:
    other = Versions("0.9.9", "b9999-abcdef", "9.9.9 (abcdef)")
    found = await discover([workers[0].address], mdns=False, own=other)
    assert found.found == ()
    (left_out,) = found.left_out
    assert isinstance(left_out.error, VersionMismatchError)
    theirs = versions()
    assert left_out.reason == (
        f"worker attic runs llama.cpp {theirs.llama_cpp} (llama-cpp-python {theirs.llama_cpp_python}) and this "
        f"coordinator b9999-abcdef (llama-cpp-python 0.9.9), and a mesh runs one build: "
        f"on the worker's machine, pip install llama-cpp-python==0.9.9"
    )


async def test_a_worker_compiled_without_git_is_one_of_us(workers: list[WorkerProcess]) -> None:
    ours = versions()
    number = ours.ggml.partition(" ")[0]
    found = await discover([workers[0].address], mdns=False, own=replace(ours, ggml=f"{number} (unknown)"))
    assert [worker.name for worker in found.found] == ["attic"]
    other_package = Versions("0.9.9", ours.llama_cpp, f"{number}.1 (unknown)")
    found = await discover([workers[0].address], mdns=False, own=other_package)
    assert found.found == ()


def test_a_mesh_finds_its_workers_by_itself(start_worker: StartWorker, unique: str) -> None:
    names = {f"{unique}-{letter}" for letter in "ab"}
    for name in names:
        start_worker(name, announced=True)
    for _ in range(5):
        try:
            with Mesh.open("demo", context=N_CTX, distribution=Distribution.ON, discovery_timeout_s=3.0) as mesh:
                stages = {stage.worker for stage in mesh.plan.stages}
                text = mesh.generate("Once upon a time", max_tokens=5).wait().text
            break
        except WorkerLostError as error:
            if error.worker in names:
                raise
            # Other workers on this network may come and go.
    assert names <= stages
    assert text


def test_workers_that_serve_another_coordinator_are_left_to_it(workers: list[WorkerProcess]) -> None:
    addresses = [worker.address for worker in workers[:2]]
    with Mesh.open("demo", workers=addresses, discover=False, context=N_CTX, distribution=Distribution.ON) as mesh:
        with pytest.raises(WorkerBusyError, match="serves another coordinator"):
            Mesh.open("demo", workers=addresses, discover=False, context=N_CTX, distribution=Distribution.ON)
        assert len(list(mesh.generate("Once, a llama", max_tokens=4))) == 4
