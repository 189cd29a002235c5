# SPDX-License-Identifier: MIT
"""A whole line of members: everything between them is encrypted and checked, and the tokens are the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import Distribution, LoadEvent, Mesh, SamplingParams
from native import LayerRange
from protos.cluster import Cluster
from tests.coordinator.weights.stand_in import FileServer, serving
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.model_kinds import Size
from tests.models import write_model

_N_LAYER, _CONTEXT, _BATCH = 8, 256, 64
_PROMPT = [1, 300, 290, 280]
_N_TOKENS = 24


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """About 19 MB."""
    path = tmp_path / "travels.gguf"
    return write_model(path, "llama", size=Size(n_layer=_N_LAYER, n_embd=256), with_text=True)


@pytest.fixture
def members(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WorkerProcess]]:
    """Three, each with a store of its own, as on machines of their own; weights come from coordinator and peers."""
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path / "coordinator"))
    started: list[WorkerProcess] = []
    try:
        started += [WorkerProcess(name, "--no-internet", cache=tmp_path / name) for name in ("attic", "cellar", "desk")]
        yield started
    finally:
        for worker in started:
            worker.stop()


def _tokens(mesh: Mesh) -> list[int]:
    generation = mesh.generate(_PROMPT, sampling=SamplingParams(temperature=0), max_tokens=_N_TOKENS)
    return [token.id for token in generation]


def test_a_line_of_members_gives_the_same_tokens_with_weights_from_the_coordinator_and_from_each_other(
    model: Path, members: list[WorkerProcess]
) -> None:
    reference = Reference(model, n_ctx=_CONTEXT, n_batch=_BATCH)
    expected = reference.greedy_tokens(_PROMPT, _N_TOKENS)
    reference.close()
    place = FileServer(files={"/travels.gguf": model.read_bytes()})
    loaded: list[LoadEvent] = []
    with serving(place):
        url = f"{place.url}/travels.gguf"
        with _opened(url, members[:2], on_progress=loaded.append) as mesh:
            assert [stage.worker for stage in mesh.plan.stages] == ["attic", "cellar"]
            assert _tokens(mesh) == expected
        with _opened(url, members, pinned={"desk": LayerRange(0, _N_LAYER)}, on_progress=loaded.append) as mesh:
            assert _tokens(mesh) == expected
    shares = [share for event in loaded for share in event.transfer.shares if share.n_bytes]
    assert {(share.origin, share.worker) for share in shares} >= {("peer", "attic"), ("peer", "cellar")}
    assert any(share.origin == "coordinator" for share in shares)


def _opened(url: str, workers: list[WorkerProcess], **options: object) -> Mesh:
    chosen: dict[str, object] = {"distribution": Distribution.ON, "context": _CONTEXT, "batch": _BATCH, **options}
    return Mesh.open(url, workers=[worker.address for worker in workers], discover=False, **chosen)  # type: ignore[arg-type]
