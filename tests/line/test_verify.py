# SPDX-License-Identifier: MIT
"""`caravan verify` over real workers: a line that is right, and one with a worker in whose memory a weight has changed
since it was loaded, as memory does that is not what it should be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator import MeshOptions
from coordinator.cli.exits import ExitCode
from coordinator.verification import Judgement, Verification, VerifyOptions, reference, verify
from native import LayerRange, read_layout
from tests.coordinator.caravan_command import ALONE, caravan
from tests.line.processes import WorkerProcess
from tests.model_kinds import Size
from tests.models import write_model

_NAMES = ("attic", "cellar", "desk")
_TEXT = "one two three four five"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "checked.gguf"
    return write_model(path, "llama", size=Size(n_layer=6), with_text=True)


@pytest.fixture
def workers() -> Iterator[list[WorkerProcess]]:
    """Three, on which what was loaded stays."""
    started: list[WorkerProcess] = []
    try:
        started += [WorkerProcess(name) for name in _NAMES]
        yield started
    finally:
        for worker in started:
            worker.stop()


async def test_a_line_that_is_right_agrees_and_a_worker_with_a_wrong_weight_is_named_alone(
    model: Path, workers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        before = await _verified_part_by_part(model, workers, patch)
    assert before.n_parts > 3
    assert "one part of the layers after the other" in before.note
    assert [line.judgement for line in before.lines] == [Judgement.SAME]
    assert before.lines[0].difference.n_same_bits == before.lines[0].difference.n_rows > 8

    _damage(workers[1], model, "blk.3.ffn_down.weight")
    given = [each for worker in workers for each in ("--worker", worker.address)]
    line = ("--layers", "0-1,2-3,4-5", "--context", "256", "--batch", "32", *given, *ALONE)
    after = caravan("verify", model, "--text", _TEXT, "--text", _TEXT * 3, *line)
    assert after.returncode == ExitCode.DISAGREES, after.stdout + after.stderr
    judged = re.findall(rf"^({'|'.join(_NAMES)}|all) +(?:CPU +\S+ +)?(same|disagrees) ", after.stdout, re.MULTILINE)
    assert judged == [("attic", "same"), ("cellar", "disagrees"), ("desk", "same"), ("all", "disagrees")]
    assert f"cellar at {workers[1].address} on " in after.stdout
    assert "layers 2 to 3 computed there change logits by up to " in after.stdout


async def _verified_part_by_part(model: Path, workers: list[WorkerProcess], patch: pytest.MonkeyPatch) -> Verification:
    """On a machine that has room for a third of the model."""
    options = MeshOptions(
        model,
        workers=[worker.address for worker in workers],
        discover=False,
        layer_ranges=[LayerRange(0, 2), LayerRange(2, 4), LayerRange(4, 6)],
        context=256,
        batch=32,
    )
    layout = read_layout(model)
    needed = reference.whole_bytes(layout, options.context_params(layout.n_ctx_train), "CPU")
    patch.setattr("coordinator.verification.verifying.free_bytes", lambda _device: needed // 3)
    asked = VerifyOptions((_TEXT, _TEXT * 3), n_single=4)
    return await verify(options, asked, lambda _event: None, lambda _what, _part: None)


def _damage(worker: WorkerProcess, model: Path, name: str) -> None:
    """Changes a tensor where the worker has loaded it."""
    (tensor,) = [tensor for tensor in read_layout(model).tensors if tensor.name == name]
    weights = model.read_bytes()[tensor.offset_bytes : tensor.offset_bytes + tensor.n_bytes]
    wrong = (np.frombuffer(weights, np.float32) * 2).tobytes()
    with open(f"/proc/{worker.pid}/maps") as maps, open(f"/proc/{worker.pid}/mem", "r+b", buffering=0) as memory:
        spans = [line.split()[0].split("-") for line in maps if " rw-p " in line and "[v" not in line]
        for start, end in [(int(start, 16), int(end, 16)) for start, end in spans]:
            memory.seek(start)
            place = memory.read(end - start).find(weights)
            if place >= 0:
                memory.seek(start + place)
                memory.write(wrong)
                return
    raise AssertionError(f"{name} is nowhere in the memory of {worker.name}")
