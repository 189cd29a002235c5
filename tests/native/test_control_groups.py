# SPDX-License-Identifier: MIT
"""What a container leaves a process: from files as kernels write them, and in a real control group."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from native import DeviceKind, default_threads, find_device
from native.control_groups import MemoryLimit, memory_limit, processor_limit

_MIB = 1 << 20
_V1 = Path("/sys/fs/cgroup")
_NOT_IN_IT = 77
"""Exit code of a process that could not be put into the group."""

_V2_LIMITED = {
    "memory.max": "1000",
    "memory.high": "max",
    "memory.current": "700",
    "memory.stat": "anon 300\ninactive_file 250\nactive_file 150",
    "cpu.max": "150000 100000",
}
_V2_FREE = {
    "memory.max": "max",
    "memory.high": "max",
    "memory.current": "9",
    "memory.stat": "inactive_file 1",
    "cpu.max": "max 100000",
}
_V1_MEMORY = {
    "memory.limit_in_bytes": "2000",
    "memory.usage_in_bytes": "1500",
    "memory.stat": "inactive_file 5\ntotal_inactive_file 100",
}
_V1_FREE = {**_V1_MEMORY, "memory.limit_in_bytes": "9223372036854771712"}
_V1_CPU = {"cpu.cfs_quota_us": "250000", "cpu.cfs_period_us": "100000"}

_UNIFIED = "30 23 0:26 {root} {mount}/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
_MEMORY = "41 32 0:30 {root} {mount}/memory rw,nosuid shared:9 - cgroup cgroup rw,memory"
_CPU = "42 32 0:31 {root} {mount}/cpu rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct"


class _System:
    """Files of groups, and of a process in them."""

    def __init__(self, folder: Path) -> None:
        self._mount = folder / "sys"
        self.process = folder / "proc"
        self.process.mkdir()

    def write(self, group: str, files: Mapping[str, str]) -> None:
        folder = self._mount / group
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text + "\n")

    def place(self, cgroup: str, *mounts: str, root: str = "/") -> None:
        (self.process / "cgroup").write_text(cgroup)
        lines = [mount.format(mount=self._mount, root=root) for mount in mounts]
        (self.process / "mountinfo").write_text("\n".join(["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *lines]) + "\n")


@pytest.fixture
def system(tmp_path: Path) -> _System:
    """Without any group yet."""
    return _System(tmp_path)


def test_a_container_of_version_2_sees_its_own_group_as_the_root(system: _System) -> None:
    system.write("unified", _V2_LIMITED)
    system.place("0::/\n", _UNIFIED)
    assert memory_limit(system.process) == MemoryLimit(free_bytes=550, total_bytes=1000)
    assert processor_limit(system.process) == 1.5


def test_a_service_has_the_limits_of_all_groups_around_it(system: _System) -> None:
    system.write("unified/system.slice/caravan.service", {**_V2_LIMITED, "memory.max": "5000"})
    (system.process.parent / "sys/unified/system.slice/memory.max").write_text("max\n")
    (system.process.parent / "sys/unified/system.slice/memory.high").write_text("4000\n")
    (system.process.parent / "sys/unified/system.slice/memory.current").write_text("3900\n")
    (system.process.parent / "sys/unified/system.slice/memory.stat").write_text("inactive_file 0\n")
    system.place("0::/system.slice/caravan.service\n", _UNIFIED)
    assert memory_limit(system.process) == MemoryLimit(free_bytes=100, total_bytes=4000)
    assert processor_limit(system.process) == 1.5


def test_a_container_of_version_1_is_told_the_path_that_it_has_outside(system: _System) -> None:
    system.write("memory", _V1_MEMORY)
    system.write("cpu", _V1_CPU)
    system.place("7:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n", _MEMORY, _CPU, root="/docker/abc")
    assert memory_limit(system.process) == MemoryLimit(free_bytes=600, total_bytes=2000)
    assert processor_limit(system.process) == 2.5
    # As with an older engine, whose mounts do not tell either.
    system.place("7:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n", _MEMORY, _CPU, root="/docker/other")
    assert memory_limit(system.process) == MemoryLimit(free_bytes=600, total_bytes=2000)


@pytest.mark.parametrize("has_groups", [True, False])
def test_without_a_limit_there_is_none(system: _System, *, has_groups: bool) -> None:
    if has_groups:
        system.write("unified/user", _V2_FREE)
        system.write("memory/user", _V1_FREE)
        system.write("cpu/user", {**_V1_CPU, "cpu.cfs_quota_us": "-1"})
        system.place("4:memory:/user\n3:cpu,cpuacct:/user\n0::/user\n", _UNIFIED, _MEMORY, _CPU)
    assert memory_limit(system.process) is None
    assert processor_limit(system.process) is None


@pytest.fixture
def group() -> Iterator[list[Path]]:
    """Folders of a real group with 300 MiB and one and a half processors, of whichever version this machine has."""
    name = f"caravan-test-{os.getpid()}"
    if (_V1 / "memory/memory.limit_in_bytes").exists():
        limits = {"memory/{}/memory.limit_in_bytes": 300 * _MIB, "cpu/{}/cpu.cfs_quota_us": 150_000}
    else:
        limits = {"{}/memory.max": 300 * _MIB, "{}/cpu.max": 150_000}
    files = {_V1 / file.format(name): limit for file, limit in limits.items()}
    folders = sorted({file.parent for file in files})
    made = []
    try:
        try:
            for folder in folders:
                folder.mkdir()
                made.append(folder)
                if not (folder / "cgroup.procs").exists():
                    pytest.skip("there are no control groups here")
            for file, limit in files.items():
                file.write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no control group with such limits can be made here: {error.strerror}")
        yield folders
    finally:
        for folder in made:
            folder.rmdir()


def test_a_real_group_leaves_llama_cpp_so_much(group: list[Path]) -> None:
    script = (
        "import os, sys\n"
        "try:\n"
        "    for folder in sys.argv[2:]: open(folder + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "    assert os.path.basename(sys.argv[2]) in open('/proc/self/cgroup').read()\n"
        "except (OSError, AssertionError):\n"
        "    sys.exit(int(sys.argv[1]))\n"
        "from native import default_threads, find_device\n"
        "cpu = find_device('CPU')\n"
        "print(cpu.free_bytes, cpu.total_bytes, default_threads())"
    )
    command = [sys.executable, "-c", script, str(_NOT_IN_IT), *map(str, group)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    if told.returncode == _NOT_IN_IT:
        pytest.skip("a process cannot be put into a control group here")
    assert told.returncode == 0, told.stderr
    free_bytes, total_bytes, n_threads = map(int, told.stdout.split())
    assert total_bytes == 300 * _MIB
    # The interpreter and llama.cpp's libraries take some of it.
    assert 0 < free_bytes < 300 * _MIB
    assert n_threads == 1


def test_the_machine_itself_is_as_large_as_it_says() -> None:
    cpu = find_device("CPU")
    assert cpu.kind is DeviceKind.CPU
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert 1 <= default_threads() <= (os.cpu_count() or 1)
