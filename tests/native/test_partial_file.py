# SPDX-License-Identifier: MIT
"""A stage reads its own bytes of a file and no others, and no byte that it needs is ever made up."""

import ctypes
import itertools
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from native import LayerRange, LoadFailedError, Model, ModelFileError, TensorLayout, read_layout
from native.partial_file import PartialFile, can_be_streamed, open_partly
from native.placement import tensors_elsewhere
from tests.conformance.split_check import check_model
from tests.model_kinds.parts import Size
from tests.models import write_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a stage reads the whole file there")

# Both the layout and llama.cpp read a header twice, in blocks of the C library's and of Python's.
_BLOCKS_BYTES = 64 << 10


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 24 layers."""
    return write_model(tmp_path_factory.mktemp("models") / "deep.gguf", "llama", n_layer=24)


def _n_header(path: Path) -> int:
    return min(tensor.offset_bytes for tensor in read_layout(path).tensors)


def _needed_bytes(path: Path, layers: LayerRange) -> int:
    layout = read_layout(path)
    return layout.n_bytes - sum(t.n_bytes for t in tensors_elsewhere(layout, layers))


def _bytes_read_by_this_process() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="counts what the kernel counts, in /proc")
@pytest.mark.parametrize("layers", [LayerRange(0, 8), LayerRange(8, 16), LayerRange(16, 24)])
def test_loading_a_stage_reads_the_header_and_its_own_tensors(deep: Path, layers: LayerRange) -> None:
    with Model.load(deep, layers=layers):
        pass  # what a process reads once, libraries and the like
    needed = _needed_bytes(deep, layers)
    before = _bytes_read_by_this_process()
    with Model.load(deep, layers=layers):
        read = _bytes_read_by_this_process() - before
    assert needed < read <= needed + 4 * _n_header(deep) + _BLOCKS_BYTES
    assert read < deep.stat().st_size / 2


def _loose_own(path: Path, start: int, end: int) -> set[str]:
    """Tensors of no layer that a stage has itself."""
    layout = read_layout(path)
    elsewhere = tensors_elsewhere(layout, LayerRange(start, end))
    own = [tensor for tensor in layout.tensors if tensor not in elsewhere]
    assert {tensor.layer for tensor in own} - {None} == set(range(start, end))
    return {tensor.name for tensor in own if tensor.layer is None}


def test_llama_cpp_passes_weights_of_other_layers_by_in_its_quick_way(
    deep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="native.llama_cpp"), Model.load(deep, layers=LayerRange(1, 2)):
        quick = [message for message in caplog.messages if "using async uploads for device WIRE" in message]
    # Else it fills memory of every tensor's size with zeros first, which takes longer than reading the stage's own.
    assert all(any(name in message for message in quick) for name in ("WIRE_BEFORE", "WIRE_AFTER"))


def test_a_stage_has_its_own_layers_the_first_the_embedding_and_the_last_the_output(deep: Path, tmp_path: Path) -> None:
    assert _loose_own(deep, 0, 8) == {"token_embd.weight"}
    assert _loose_own(deep, 8, 16) == set()
    assert _loose_own(deep, 16, 24) == {"output.weight", "output_norm.weight"}
    tied = write_model(tmp_path / "tied.gguf", "gemma3", n_layer=4)
    assert _loose_own(tied, 0, 2) == {"token_embd.weight"}
    assert _loose_own(tied, 1, 2) == set()
    assert _loose_own(tied, 2, 4) == {"token_embd.weight", "output_norm.weight"}


def test_blocks_behind_the_last_layer_are_the_last_stages(tmp_path: Path) -> None:
    layout = read_layout(write_model(tmp_path / "model.gguf", "glm4moe"))
    assert (layout.n_layer, layout.n_block) == (4, 5)
    assert {tensor.layer for tensor in tensors_elsewhere(layout, LayerRange(1, 3))} - {None} == {0, 3, 4}
    assert {tensor.layer for tensor in tensors_elsewhere(layout, LayerRange(2, 4))} - {None} == {0, 1}


def test_a_model_that_llama_cpp_maps_or_that_has_several_files_is_loaded_from_its_path(tiny: Path) -> None:
    layout, layers = read_layout(tiny), LayerRange(1, 3)
    huge = TensorLayout("per_layer_token_embd.weight", "f16", 0, 1 << 20, (4 << 30) + 1, (2 << 30) + 1, None)
    mapped = replace(layout, tensors=(*layout.tensors, huge))
    assert can_be_streamed(layout)
    assert not can_be_streamed(mapped)
    assert huge not in tensors_elsewhere(mapped, layers)
    assert not can_be_streamed(replace(layout, files=(tiny, tiny)))


def _read(file: PartialFile, at: int, n: int) -> bytes | None:
    """What fread gives for n bytes, None where it fails; calls what llama.cpp calls for each tensor."""
    libc = ctypes.CDLL(None)
    libc.fread.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    libc.fread.restype = ctypes.c_size_t
    libc.fseeko.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    libc.ftello.argtypes = [ctypes.c_void_p]
    libc.ftello.restype = ctypes.c_int64
    buffer = ctypes.create_string_buffer(n)
    assert libc.fseeko(file.stream, at, os.SEEK_SET) == 0
    assert libc.ftello(file.stream) == at
    return buffer.raw if libc.fread(buffer, n, 1, file.stream) == 1 else None


def test_every_byte_of_the_own_tensors_is_the_files_and_read_once(tmp_path: Path) -> None:
    # Embeddings of more than a buffer, so that tensors lie in several blocks of it, and across their borders.
    path = write_model(tmp_path / "model.gguf", "llama", size=Size(4, n_embd=256, n_vocab=1500))
    layout, layers, content = read_layout(path), LayerRange(1, 3), path.read_bytes()
    skipped = tensors_elsewhere(layout, layers)
    with open_partly(layout, layers) as file:
        assert file is not None
        assert _read(file, 0, file.n_header) == content[: file.n_header]
        for tensor in sorted(layout.tensors, key=lambda tensor: tensor.name):
            value = _read(file, tensor.offset_bytes, tensor.n_bytes)
            if tensor not in skipped:
                assert value == content[tensor.offset_bytes : tensor.offset_bytes + tensor.n_bytes]
        assert file.read_bytes == file.own_bytes
        assert file.skipped_bytes == sum(tensor.n_bytes for tensor in skipped)
        assert file.fraction_read == 1.0


def test_a_place_in_a_tensor_a_place_on_a_border_and_the_end_are_read_as_in_any_file(tmp_path: Path) -> None:
    # The last stage needs the first tensor, the embedding, as well as the last.
    path = write_model(tmp_path / "tied.gguf", "llama-tied", n_layer=4)
    layout, content = read_layout(path), path.read_bytes()
    last = max(layout.tensors, key=lambda tensor: tensor.offset_bytes)
    with open_partly(layout, LayerRange(2, 4)) as file:
        assert file is not None
        for at in (0, 5, file.n_header - 7, last.offset_bytes - 7, last.offset_bytes + 7, len(content) - 7):
            assert _read(file, at, 7) == content[at : at + 7]
            assert _read(file, at, 1 << 20) is None
        assert _read(file, file.n_header - 7, 14) == content[file.n_header - 7 : file.n_header + 7]
        assert _read(file, len(content) + 7, 1) is None


def _open_elsewhere(path: Path, other: int) -> None:
    """Puts another open file in the place of every descriptor that this process has of `path`."""
    for number in os.listdir("/proc/self/fd"):
        if os.path.realpath(f"/proc/self/fd/{number}") == str(path):
            os.dup2(other, int(number))


def _shorten(path: Path) -> None:
    os.truncate(path, _n_header(path) + 10)


def _fail(path: Path) -> None:
    # The pages of this process's own memory at such low addresses are not there, and reading them is an EIO.
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    _open_elsewhere(path, memory)
    os.close(memory)


@pytest.mark.skipif(sys.platform != "linux", reason="makes a read fail by means of /proc")
@pytest.mark.parametrize(
    ("harm", "reason"), [(_shorten, "unexpectedly reached end of file"), (_fail, "read error: Input/output error")]
)
def test_a_read_that_fails_fails_the_load(harm: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", "llama", n_layer=4)
    is_harmed = False

    def interfere(_fraction: float) -> bool:
        nonlocal is_harmed
        if not is_harmed:
            is_harmed = True
            harm(path)
        return True

    with pytest.raises(LoadFailedError, match=reason):
        Model.load(path, layers=LayerRange(1, 3), on_progress=interfere)


def test_a_file_that_became_another_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny.read_bytes())
    layout = read_layout(path)
    path.write_bytes(tiny.read_bytes().replace(b"tiny llama", b"tiny lhama"))
    with (
        pytest.raises(ModelFileError, match="changed while it was being loaded"),
        open_partly(layout, LayerRange(1, 3)),
    ):
        pass
    path.unlink()
    with pytest.raises(ModelFileError, match="cannot be read"), open_partly(layout, LayerRange(1, 3)):
        pass


def test_where_llama_cpp_puts_a_layer_elsewhere_than_foreseen_the_whole_file_is_read(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    everything = frozenset(tensor for tensor in read_layout(tiny).tensors if tensor.layer is not None)
    monkeypatch.setattr("native.partial_file.tensors_elsewhere", lambda _layout, _layers: everything)
    outcome = check_model(tiny, [(1, 3)])
    assert outcome.verdict == "identical", outcome.detail
    assert "tiny.gguf is read as a whole" in caplog.text


def test_progress_is_of_what_is_read(deep: Path) -> None:
    layers = LayerRange(8, 16)
    fractions: list[float] = []

    def note(fraction: float) -> bool:
        fractions.append(fraction)
        return True

    with Model.load(deep, layers=layers, on_progress=note):
        pass
    largest = max(t.n_bytes for t in read_layout(deep).tensors)
    steps = [after - before for before, after in itertools.pairwise(fractions)]
    assert min(steps) >= 0
    assert max(steps) <= largest / _needed_bytes(deep, layers)
    assert fractions[-1] == 1.0
