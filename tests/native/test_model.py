# SPDX-License-Identifier: MIT
"""Loading a model or a layer range of it: progress, refusals, and memory as it was foretold."""

from pathlib import Path

import pytest

from native import (
    Context,
    ContextParams,
    LayerRange,
    LoadCancelledError,
    LoadFailedError,
    Model,
    ModelFileNotFoundError,
    UnknownDeviceError,
    UnsupportedModelError,
    dry_run,
    find_device,
    measure_layers,
    read_layout,
)
from tests.model_kinds import KINDS
from tests.models import write_model

_PARAMS = ContextParams(n_ctx_seq=256, n_seq_max=2, n_batch=64, n_ubatch=16, n_threads=1)

# llama.cpp aligns every tensor in a buffer, and gives each layer's own device a copy of what all layers share.
_PADDING_BYTES = 4096


def test_a_model_knows_its_layers_and_which_end_it_has(tiny: Path) -> None:
    with Model.load(tiny) as whole:
        assert (whole.n_layer, whole.layers, whole.is_first, whole.is_last) == (4, LayerRange(0, 4), True, True)
        assert whole.n_vocab == read_layout(tiny).n_vocab
    with Model.load(tiny, layers=LayerRange(1, 3)) as middle:
        assert (middle.n_layer, middle.layers, middle.is_first, middle.is_last) == (4, LayerRange(1, 3), False, False)


def test_closing_twice_is_harmless(tiny: Path) -> None:
    model = Model.load(tiny, layers=LayerRange(0, 2))
    context = Context(model, _PARAMS)
    for _ in range(2):
        context.close()
    for _ in range(2):
        model.close()


@pytest.mark.parametrize("layers", [None, LayerRange(1, 3)])
def test_loading_tells_how_far_it_is(tiny: Path, layers: LayerRange | None) -> None:
    fractions: list[float] = []

    def note(fraction: float) -> bool:
        fractions.append(fraction)
        return True

    with Model.load(tiny, layers=layers, on_progress=note):
        pass
    assert len(fractions) > 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


@pytest.mark.parametrize("layers", [None, LayerRange(1, 3)])
def test_loading_can_be_cancelled_and_tried_again(tiny: Path, layers: LayerRange | None) -> None:
    with pytest.raises(LoadCancelledError, match=r"loading tiny\.gguf was cancelled"):
        Model.load(tiny, layers=layers, on_progress=lambda fraction: fraction < 0.5)
    with Model.load(tiny, layers=layers) as model, Context(model, _PARAMS):
        pass


def test_layers_beyond_the_model_are_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match=r"layers \[3, 5\) were asked for and tiny\.gguf has 4"):
        Model.load(tiny, layers=LayerRange(3, 5))


def test_an_unknown_device_is_refused_with_those_there_are(tiny: Path) -> None:
    with pytest.raises(UnknownDeviceError, match=r"there is no device 'CUDA7' here; this llama.cpp has: .*CPU"):
        Model.load(tiny, device="CUDA7")


def test_a_device_is_found_whatever_its_case(tiny: Path) -> None:
    assert find_device("cpu") == find_device("CPU")
    with Model.load(tiny, layers=LayerRange(0, 1), device="cpu") as model:
        assert model.is_cpu


def test_an_unknown_architecture_is_told_by_name(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "future.gguf"
    path.write_bytes(tiny.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(UnsupportedModelError, match="architecture 'lhama' is unknown to the installed"):
        Model.load(path)


def test_what_llama_cpp_refuses_is_told_with_its_reason(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama")
    path.write_bytes(path.read_bytes().replace(b"blk.3.ffn_up.weight", b"blk.3.ffn_xx.weight"))
    with pytest.raises(LoadFailedError, match=r"could not load model\.gguf: .*blk\.3\.ffn_up\.weight") as caught:
        Model.load(path, layers=LayerRange(0, 5))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ModelFileNotFoundError):
        Model.load(tmp_path / "nothing.gguf", layers=LayerRange(0, 1))


@pytest.mark.parametrize("layers", [LayerRange(0, 4), LayerRange(0, 1), LayerRange(1, 3), LayerRange(2, 4)])
@pytest.mark.parametrize("flags", [{}, {"kv_unified": True}, {"kv_type_k": "f32", "n_ctx_seq": 1024}])
def test_a_dry_run_foretells_what_a_stage_takes(tiny: Path, layers: LayerRange, flags: dict[str, object]) -> None:
    params = ContextParams(**{"n_ctx_seq": 256, "n_seq_max": 2, "n_batch": 64, "n_ubatch": 16, **flags})  # type: ignore[arg-type]
    foretold = dry_run(tiny, layers, "CPU", params)
    with Model.load(tiny, layers=layers, device="CPU") as model, Context(model, params) as context:
        assert context.memory() == foretold
    assert foretold.weights_bytes > 0
    assert foretold.kv_bytes > 0
    assert foretold.host_bytes == 0
    assert foretold.device_bytes == foretold.weights_bytes + foretold.kv_bytes + foretold.compute_bytes


def test_a_dry_run_needs_no_more_than_the_header(tiny: Path, tmp_path: Path) -> None:
    header = min(tensor.offset_bytes for tensor in read_layout(tiny).tensors)
    sparse = tmp_path / "sparse.gguf"
    sparse.write_bytes(tiny.read_bytes()[:header])
    with sparse.open("r+b") as file:
        file.truncate(tiny.stat().st_size)
    layers = LayerRange(1, 3)
    assert dry_run(sparse, layers, "CPU", _PARAMS) == dry_run(tiny, layers, "CPU", _PARAMS)


@pytest.mark.parametrize("kind", ["llama", "qwen3moe", "deepseek2", "bloom", "gpt2", "lfm2", "mamba", "glm4moe"])
def test_measured_layers_add_up_to_what_stages_take(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", kind)
    costs = measure_layers(path, _PARAMS)
    n_layer = len(costs.layers)
    assert n_layer == read_layout(path).n_layer
    for start, end in ((0, 1), (0, 2), (1, 2), (2, n_layer), (n_layer - 1, n_layer)):
        stage = dry_run(path, LayerRange(start, end), "CPU", _PARAMS)
        expected = sum(layer.weights_bytes for layer in costs.layers[start:end])
        expected += costs.input_bytes if start == 0 else 0
        expected += costs.output_bytes if end == n_layer else 0
        assert abs(stage.weights_bytes - expected) <= _PADDING_BYTES
        assert stage.kv_bytes == sum(layer.kv_bytes for layer in costs.layers[start:end])


def test_the_weights_of_all_stages_are_the_weights_of_the_model(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama")
    stages = [dry_run(path, LayerRange(i, i + 1), "CPU", _PARAMS) for i in range(6)]
    total = sum(stage.weights_bytes for stage in stages)
    assert abs(total - read_layout(path).n_bytes) <= _PADDING_BYTES


@pytest.mark.parametrize("kind", ["gemma3n", "gemma4", "gpt2"])
def test_a_stage_holds_no_tables_that_only_the_first_one_reads(kind: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", kind)
    layout = read_layout(path)
    tables = sum(t.n_bytes for t in layout.tensors if t.name.startswith(("per_layer_token_embd", "position_embd")))
    embedding = next(t.n_bytes for t in layout.tensors if t.name == "token_embd.weight")
    first_own = sum(t.n_bytes for t in layout.tensors if t.layer == layout.n_layer - 1)
    last = dry_run(path, LayerRange(layout.n_layer - 1, layout.n_layer), "CPU", _PARAMS)
    assert tables > embedding
    assert last.weights_bytes < first_own + 2 * embedding + tables // 2


def test_a_model_of_many_layers_is_measured_in_several_runs(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama", n_layer=40)
    costs = measure_layers(path, _PARAMS)
    assert len(costs.layers) == 40
    assert len(set(costs.layers)) == 1
    assert not costs.tied_output


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_measured(kind: str, tmp_path: Path) -> None:
    costs = measure_layers(write_model(tmp_path / "model.gguf", kind), _PARAMS)
    assert all(layer.weights_bytes > 0 for layer in costs.layers)
    assert min(costs.input_bytes, costs.output_bytes) > 0
