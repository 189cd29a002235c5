# SPDX-License-Identifier: MIT
"""A worker on two cards: what it says of itself, what it foretells, and a line that it is a stage of.

Wants two cards, of which one may be shown twice: GGML_VK_VISIBLE_DEVICES=0,0 or GGML_CUDA_DEVICES=2.
"""

from pathlib import Path

import grpc
import pytest

from native import Cards, ContextParams, LayerRange, Split, devices, read_layout
from protos.caravan.v1 import control_pb2, error_pb2
from tests.model_kinds import Size
from tests.models import write_model
from tests.worker.conftest import StartWorker
from tests.worker.driver import (
    FedStream,
    WorkerProcess,
    context_params,
    failure,
    greedy_sampler,
    load_request,
    stage_spec,
    want_token,
)
from worker.cards import Place, fits_each
from worker.placing import DryRuns, place_stage
from worker.session import StageSpec

# On a card in software the first shaders take their time.
_PATIENCE_S = 300
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.timeout(2 * _PATIENCE_S)]

N_LAYER = 6


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers, each tensor of which is large enough for two cards to have a part."""
    return write_model(tmp_path_factory.mktemp("model") / "wide.gguf", "llama", size=Size(N_LAYER, n_embd=128))


def spec(path: Path, start: int, end: int) -> StageSpec:
    params = ContextParams(n_ctx_seq=256, n_batch=64, n_ubatch=64, n_threads=1)
    return StageSpec(str(path), read_layout(path).identity, LayerRange(start, end), params)


def dry_run(worker: WorkerProcess, path: Path, start: int, end: int) -> control_pb2.DryRunResponse:
    request = control_pb2.DryRunRequest(stage=stage_spec(path, start, end))
    return worker.control.DryRun(request, timeout=_PATIENCE_S)


def load(worker: WorkerProcess, request: control_pb2.LoadRequest) -> control_pb2.LoadedStage:
    *_, last = worker.control.Load(request, timeout=_PATIENCE_S)
    return last.loaded


def generated(first: WorkerProcess, last: WorkerProcess, session_id: str) -> list[int]:
    """Some tokens, greedily."""
    stream = FedStream(first, last, session_id)
    prompt = [5, 90, 17, 42]
    result = stream.step(
        prompt, range(4), [0] * 4, [want_token(3)], sampler_operations=[greedy_sampler(0, prompt_tokens=prompt)]
    )
    tokens = [result.rows[0].sampled.token]
    for position in range(4, 10):
        tokens.append(stream.step(tokens[-1:], [position], [0], [want_token(0)]).rows[0].sampled.token)
    stream.finish()
    return tokens


def test_layers_go_where_there_is_room_until_each_card_fits(cards: tuple[str, str], wide: Path) -> None:
    layout = read_layout(wide)
    place = Place(cards, Split.LAYER)
    even = place_stage(spec(wide, 0, N_LAYER), layout, place, [1 << 30, 1 << 30], DryRuns())
    assert isinstance(even.device, Cards)
    assert sorted(even.device.shares) == [3, 3]
    # As much as two layers take on the first card, and everything on the second.
    small_bytes = even.memory.cards[0].device_bytes * 2 // 3
    uneven = place_stage(spec(wide, 0, N_LAYER), layout, place, [small_bytes, even.memory.device_bytes], DryRuns())
    assert isinstance(uneven.device, Cards)
    assert 1 <= uneven.device.shares[0] <= 2
    assert fits_each(uneven.memory, [small_bytes, even.memory.device_bytes])
    too_small = [1 << 16, 1 << 16]
    assert not fits_each(place_stage(spec(wide, 0, N_LAYER), layout, place, too_small, DryRuns()).memory, too_small)


def test_what_cannot_be_shared_by_tensors_is_shared_by_layers_unless_tensors_are_asked_for(
    cards: tuple[str, str], tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model.gguf", "mamba", n_layer=4)
    layout = read_layout(path)
    placed = place_stage(spec(path, 0, 2), layout, Place(cards, Split.TENSOR), [1 << 30, 1 << 30], DryRuns())
    assert placed.device == Cards(cards, Split.LAYER, (1, 1))
    with pytest.raises(Exception, match="architecture 'mamba' cannot be shared by tensors"):
        place_stage(spec(path, 0, 2), layout, Place(cards, Split.TENSOR, is_told=True), [1 << 30, 1 << 30], DryRuns())


@pytest.mark.parametrize("split", ["layer", "tensor"])
def test_a_worker_on_two_cards_is_a_stage_of_a_line(
    split: str, cards: tuple[str, str], wide: Path, start_worker: StartWorker
) -> None:
    both = start_worker("--name", "both", "--device", ",".join(cards), "--split", split)
    about = both.control.Describe(control_pb2.DescribeRequest(), timeout=_PATIENCE_S).device
    by_name = {device.name: device for device in devices()}
    assert about.name == ",".join(cards) == both.ready["device"]
    assert about.kind == control_pb2.DEVICE_KIND_GPU
    assert about.total_bytes == sum(by_name[name].total_bytes for name in cards)

    foretold = dry_run(both, wide, 0, N_LAYER)
    loaded = load(both, load_request(stage_spec(wide, 0, N_LAYER), session_id="whole"))
    assert loaded.memory.kv_bytes == foretold.memory.kv_bytes
    assert loaded.memory.weights_bytes == pytest.approx(foretold.memory.weights_bytes, abs=4096)
    whole = generated(both, both, "whole")

    one = start_worker("--name", "one", "--device", cards[0])
    load(one, load_request(stage_spec(wide, 4, N_LAYER), session_id="line"))
    load(both, load_request(stage_spec(wide, 0, 4), session_id="line", next_worker=one))
    assert generated(both, one, "line") == whole


def test_a_card_that_is_too_full_is_a_misfit_and_is_named(
    cards: tuple[str, str], wide: Path, start_worker: StartWorker
) -> None:
    free_bytes = min(device.free_bytes for device in devices() if device.name in cards)
    reserve = str(free_bytes - (1 << 20))
    worker = start_worker("--device", ",".join(cards), "--reserve", reserve)
    about = worker.control.Describe(control_pb2.DescribeRequest(), timeout=_PATIENCE_S).device
    assert about.free_bytes == 2 << 20
    fits, too_much = dry_run(worker, wide, 0, 2), dry_run(worker, wide, 0, N_LAYER)
    assert fits.memory.weights_bytes + fits.memory.kv_bytes < fits.free_bytes <= about.free_bytes
    assert too_much.free_bytes < too_much.memory.weights_bytes + too_much.memory.kv_bytes
    with pytest.raises(grpc.RpcError) as caught:
        load(worker, load_request(stage_spec(wide, 0, N_LAYER, context_params())))
    status, detail = failure(caught.value)
    assert (status, detail.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, error_pb2.ERROR_CODE_OUT_OF_MEMORY)
    assert any(f"{name} would hold" in detail.message for name in cards)
    assert "1.0 MiB is free there beside its --reserve of" in detail.message
