# SPDX-License-Identifier: MIT
"""What a coordinator left on its workers is taken over by the next one, as it lies there."""

from coordinator import LayerRange, LoadEvent, LoadPhase
from coordinator.weights.progress import WeightOrigin
from tests.line.conftest import StartWorker, open_mesh


def test_a_line_that_lies_there_is_taken_over_rather_than_another_of_its_speed(start_worker: StartWorker) -> None:
    """Two workers of one speed would be given half of the layers each."""
    workers = [start_worker(name) for name in ("one", "two")]
    left = [LayerRange(0, 3), LayerRange(3, 8)]
    with open_mesh(workers, layer_ranges=left, predicted=True) as mesh:
        text = mesh.generate("Once upon a time", max_tokens=8).wait().tokens
        assert len(text) == 8
    told: list[LoadEvent] = []
    with open_mesh(workers, on_progress=told.append) as mesh:
        assert [stage.layers for stage in mesh.plan.stages] == left
    loads = [event for event in told if event.phase is LoadPhase.LOADING and event.worker is not None]
    assert {event.worker for event in loads} == {"one", "two"}
    for name in ("one", "two"):
        last = [event for event in loads if event.worker == name][-1].transfer
        assert last is not None
        assert (last.to_fetch_bytes, [share.origin for share in last.shares]) == (0, [WeightOrigin.WARM])
