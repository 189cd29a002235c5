# SPDX-License-Identifier: MIT
"""The weights of a CPU stage lie in huge pages where the system gives them to those that ask."""

import platform
from pathlib import Path

import pytest

from tests.worker.conftest import StartWorker
from tests.worker.driver import WorkerProcess, load_request, stage_spec

_MODE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HAS_TUNABLE = platform.libc_ver()[0] == "glibc" and tuple(map(int, platform.libc_ver()[1].split("."))) >= (2, 35)

pytestmark = pytest.mark.skipif(
    not (_HAS_TUNABLE and _MODE.exists() and "[madvise]" in _MODE.read_text(encoding="ascii")),
    reason="this system gives huge pages to everybody, or to nobody",
)


def _huge_bytes(worker: WorkerProcess) -> int:
    """Bytes of the process's own memory that lie in huge pages."""
    fields = Path(f"/proc/{worker.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(1024 * int(field.split()[1]) for field in fields if field.startswith("AnonHugePages:"))


@pytest.mark.parametrize("layers", [(0, 2), (0, 4)], ids=["a stage", "a whole model"])
def test_weights_lie_in_huge_pages(start_worker: StartWorker, heavy_model: Path, layers: tuple[int, int]) -> None:
    worker = start_worker()
    worker.load(load_request(stage_spec(heavy_model, *layers)))
    weights_bytes = (layers[1] - layers[0]) * heavy_model.stat().st_size // 4
    # Memory may be fragmented; without asking it would be none at all.
    assert _huge_bytes(worker) > weights_bytes / 2


def test_a_setting_of_the_users_own_stays(
    start_worker: StartWorker, heavy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    worker = start_worker()
    worker.load(load_request(stage_spec(heavy_model, 0, 2)))
    assert _huge_bytes(worker) == 0
