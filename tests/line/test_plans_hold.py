# SPDX-License-Identifier: MIT
"""Who takes part, with real workers of little memory: all that can hold a layer, and nobody else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from coordinator import Distribution, DoesNotFitError, FlashAttention, Mesh, SamplingParams
from coordinator.candidates import MARGIN_BYTES
from coordinator.mesh import OpenOptions
from coordinator.options import MeshOptions
from tests.line.conftest import StartWorker
from tests.line.memory import MIB, PossibleLines, plan_alone
from tests.line.processes import WorkerProcess
from tests.model_kinds import Size
from tests.models import write_model

GREEDY = SamplingParams(temperature=0)
N_CTX_TRAIN = 512


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers with the most that each may use."""

    workers: Sequence[WorkerProcess]
    limits: Mapping[str, int]

    def options(self, n_ctx: int, *, flash_attention: FlashAttention = FlashAttention.OFF) -> OpenOptions:
        """A mesh over all that can hold a layer."""
        return {
            "workers": [worker.address for worker in self.workers],
            "discover": False,
            "distribution": Distribution.ON,
            "context": n_ctx,
            "parallel": 1,
            "flash_attention": flash_attention,
        }

    def most_stages(self, path: Path, options: OpenOptions) -> int:
        """That any line over these workers can have."""
        params = MeshOptions(path, **options).context_params(N_CTX_TRAIN)
        return PossibleLines(path, params, self.limits).most_stages()


def _start(limits: Mapping[str, int], start: StartWorker = WorkerProcess) -> Fleet:
    return Fleet([start(name, "--memory", str(limit)) for name, limit in limits.items()], limits)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 layers, 121 MiB; embedding and output 24 MiB each, and as many logits as take 32 MiB for a batch of 512."""
    size = Size(24, n_embd=384, n_vocab=16384)
    return write_model(tmp_path_factory.mktemp("plans") / "model.gguf", "llama", size=size, with_text=True)


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """One that holds a lot and two that hold a quarter of it."""
    fleet = _start({"big": 640 * MIB, "small": 160 * MIB, "little": 160 * MIB})
    yield fleet
    for worker in fleet.workers:
        worker.stop()


@pytest.mark.parametrize(("n_ctx", "n_stages"), [(1024, 3), (8192, 1)])
def test_small_workers_take_part_until_no_layer_fits_them(fleet: Fleet, model: Path, n_ctx: int, n_stages: int) -> None:
    assert _check(fleet, model, fleet.options(n_ctx)) == n_stages


def test_workers_on_one_device_share_a_model_that_none_of_them_may_hold_alone(
    start_worker: StartWorker, model: Path
) -> None:
    halves = _start({"one": 250 * MIB, "other": 250 * MIB}, start_worker)
    alone: OpenOptions = {**halves.options(512), "distribution": Distribution.OFF}
    with pytest.raises(DoesNotFitError):
        plan_alone(MeshOptions(model, **alone))
    together: OpenOptions = {**alone, "distribution": Distribution.AUTO}
    assert len(plan_alone(MeshOptions(model, **together)).stages) == 2


def test_what_fits_nowhere_is_refused_with_numbers_and_remedies(fleet: Fleet, model: Path) -> None:
    with pytest.raises(DoesNotFitError) as caught:
        Mesh.open(model, **fleet.options(16384))
    error = caught.value
    assert error.needed_bytes > error.available_bytes > 0
    for said in ("MiB of weights", "MiB of KV cache for 1 x 16384 tokens", "too little", "of 640 MiB free"):
        assert said in str(error)
    assert "lower the context to about" in str(error)
    assert "or add a worker with" in str(error) or "or use a quantisation of at most" in str(error)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_at_every_context_as_many_workers_as_possible_take_part(fleet: Fleet, model: Path) -> None:
    contexts = [256, 1024, *range(4096, 8192, 512), 8192, 10240, 12288, 14336, 16384]
    counts = [_check(fleet, model, fleet.options(n_ctx)) for n_ctx in contexts]
    assert counts == sorted(counts, reverse=True)
    assert {0, 1, 3} <= set(counts)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("flash_attention", [FlashAttention.OFF, FlashAttention.ON])
def test_unequal_small_workers_drop_out_one_after_the_other(
    start_worker: StartWorker, model: Path, flash_attention: FlashAttention
) -> None:
    uneven = _start({"big": 1280 * MIB, "small": 190 * MIB, "little": 120 * MIB}, start_worker)
    contexts = range(1024, 15360, 2048) if flash_attention is FlashAttention.OFF else range(4096, 60000, 6144)
    counts = [_check(uneven, model, uneven.options(n_ctx, flash_attention=flash_attention)) for n_ctx in contexts]
    assert counts == sorted(counts, reverse=True)
    assert {2, 3} < set(counts)


def test_who_has_room_for_inner_layers_only_gets_those(start_worker: StartWorker, model: Path) -> None:
    """Neither the embedding, nor the output layer and its logits, fit the small one."""
    tight = _start({"big": 400 * MIB, "middling": 250 * MIB, "small": 84 * MIB}, start_worker)
    options = tight.options(512, flash_attention=FlashAttention.ON)
    assert _check(tight, model, options) == 3
    assert plan_alone(MeshOptions(model, **options)).stages[1].worker == "small"


def _check(fleet: Fleet, model: Path, options: OpenOptions) -> int:
    """Opens a mesh and generates, if that is possible, and says over how many workers; those left out are named."""
    n_stages = fleet.most_stages(model, options)
    if n_stages == 0:
        with pytest.raises(DoesNotFitError, match=r"too little|cannot be cut so that each part fits"):
            Mesh.open(model, **options)
        return 0
    with Mesh.open(model, **options) as mesh:
        plan = mesh.plan
        assert len(plan.stages) == n_stages, plan.explain()
        for stage in plan.stages:
            assert stage.memory.total_bytes + MARGIN_BYTES <= fleet.limits[stage.worker]
        unused = set(fleet.limits) - {stage.worker for stage in plan.stages}
        for name in unused:
            assert "and one layer with its KV cache takes" in dict(plan.left_out)[name]
        assert len(mesh.generate([5, 6, 7], sampling=GREEDY, max_tokens=3).wait().tokens) == 3
    return n_stages
