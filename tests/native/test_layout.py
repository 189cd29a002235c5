# SPDX-License-Identifier: MIT
"""Reading a GGUF's header: what it says of good files, and one clear sentence for every way a file can be bad."""

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import psutil
import pytest

from native import Model, ModelFileError, ModelFileNotFoundError, Vocabulary, header_size, read_layout
from tests.model_kinds import Size
from tests.models import split_model, write_model


def test_a_header_tells_architecture_sizes_and_every_tensor(tiny: Path) -> None:
    layout = read_layout(tiny)
    assert (layout.architecture, layout.name) == ("llama", "tiny llama")
    assert (layout.n_layer, layout.n_block, layout.n_embd, layout.n_ctx_train) == (4, 4, 64, 512)
    assert layout.files == (tiny,)
    with Vocabulary.load(tiny) as vocabulary:
        assert layout.n_vocab == vocabulary.n_tokens
    by_name = {tensor.name: tensor for tensor in layout.tensors}
    assert by_name["blk.3.ffn_down.weight"].layer == 3
    assert by_name["output.weight"].layer is None
    assert by_name["blk.0.attn_q.weight"].n_bytes == 64 * 64 * 4
    assert {tensor.type_name for tensor in layout.tensors} == {"f32"}


@pytest.mark.parametrize(("quantisation", "n_bytes"), [("f32", 4 * 256 * 256), ("q4_k", 256 * 256 * 9 // 16)])
def test_a_tensor_knows_how_many_numbers_it_holds(tmp_path: Path, quantisation: str, n_bytes: int) -> None:
    size = Size(n_layer=1, n_embd=256)
    layout = read_layout(write_model(tmp_path / "model.gguf", "llama", size=size, quantisation=quantisation))
    (tensor,) = [tensor for tensor in layout.tensors if tensor.name == "blk.0.attn_q.weight"]
    assert (tensor.n_elements, tensor.n_bytes) == (256 * 256, n_bytes)


def test_experts_are_told_from_what_every_token_uses(tmp_path: Path) -> None:
    layout = read_layout(write_model(tmp_path / "model.gguf", "glm4moe"))
    assert (layout.n_expert, layout.n_expert_used) == (4, 2)
    experts = {tensor.name.split(".")[2] for tensor in layout.tensors if tensor.is_expert}
    assert experts == {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}
    for name, is_expert in (("ffn_gate_up_exps", True), ("ffn_up_chexps", True), ("ffn_norm_exps", False)):
        assert replace(layout.tensors[0], name=f"blk.1.{name}.weight").is_expert is is_expert
    dense = read_layout(write_model(tmp_path / "dense.gguf", "llama"))
    assert (dense.n_expert, dense.n_expert_used) == (0, 0)


def test_the_size_of_a_header_is_known_once_all_of_it_is_there(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    n_header = min(tensor.offset_bytes for tensor in read_layout(tiny).tensors)
    data, beginning = tiny.read_bytes(), tmp_path / "beginning.gguf"
    for n_bytes in (5, 40, n_header // 2, n_header - 1):
        beginning.write_bytes(data[:n_bytes])
        assert header_size(beginning) is None
    for n_bytes in (n_header, n_header + 7):
        beginning.write_bytes(data[:n_bytes])
        assert header_size(beginning) == n_header
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]
    beginning.write_bytes(b"<html>")
    with pytest.raises(ModelFileError, match="not a GGUF"):
        header_size(beginning)


def test_tensors_lie_where_the_header_says(tiny: Path) -> None:
    reader = gguf.GGUFReader(tiny)
    expected = {tensor.name: bytes(tensor.data.tobytes()) for tensor in reader.tensors}
    layout = read_layout(tiny)
    assert len(layout.tensors) == len(expected)
    with tiny.open("rb") as file:
        for tensor in layout.tensors:
            file.seek(tensor.offset_bytes)
            assert file.read(tensor.n_bytes) == expected[tensor.name]


def test_blocks_that_predict_further_ahead_are_no_layers(tmp_path: Path) -> None:
    layout = read_layout(write_model(tmp_path / "model.gguf", "glm4moe"))
    assert (layout.n_layer, layout.n_block) == (4, 5)


def test_the_same_bytes_have_the_same_identity_and_others_another(tmp_path: Path) -> None:
    one = read_layout(write_model(tmp_path / "one.gguf", "llama")).identity
    same = read_layout(write_model(tmp_path / "two.gguf", "llama")).identity
    longer = read_layout(write_model(tmp_path / "three.gguf", "llama", n_layer=7)).identity
    quantised = read_layout(write_model(tmp_path / "four.gguf", "llama", quantisation="f16")).identity
    assert one == same
    assert len({one, longer, quantised}) == 3
    assert len(one) == 64


def _header(*, version: int = 3, n_tensors: int = 0, n_keys: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + rest


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


_ARCHITECTURE = _string(b"general.architecture") + struct.pack("<I", 8) + _string(b"llama")


def _blocks(count: int) -> bytes:
    return _string(b"llama.block_count") + struct.pack("<Ii", 5, count)


_BLOCKS = _blocks(2)
_HUGE = 1 << 60

_BAD_FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "this is not a GGUF file"),
    ("text", b"hello, this is text, not a model\n", "this is not a GGUF file"),
    ("the magic alone", b"GGUF", "damaged or cut off"),
    ("half a header", _header()[:12], "damaged or cut off"),
    ("an unknown version", _header(version=77), "damaged or cut off"),
    ("a big-endian version", _header(version=0x03000000), "damaged or cut off"),
    ("more tensors than memory", _header(n_tensors=_HUGE), "damaged or cut off"),
    ("more keys than memory", _header(n_keys=_HUGE), "damaged or cut off"),
    ("more tensors than the file holds", _header(n_tensors=1 << 20), "damaged or cut off"),
    ("more keys than the file holds", _header(n_keys=1 << 20), "damaged or cut off"),
    ("counts below zero", _header(n_tensors=(1 << 64) - 1, n_keys=(1 << 64) - 1), "damaged or cut off"),
    ("a key as long as memory", _header(n_keys=1, rest=struct.pack("<Q", _HUGE)), "damaged or cut off"),
    ("a key of three gigabytes", _header(n_keys=1, rest=struct.pack("<Q", 3 << 30)), "damaged or cut off"),
    (
        "an array as long as memory",
        _header(n_keys=1, rest=_string(b"a") + struct.pack("<IIQ", 9, 4, _HUGE)),
        "damaged or cut off",
    ),
    (
        "an array of strings as long as memory",
        _header(n_keys=1, rest=_string(b"a") + struct.pack("<IIQ", 9, 8, 1 << 40)),
        "damaged or cut off",
    ),
    ("an unknown value type", _header(n_keys=1, rest=_string(b"a") + struct.pack("<IQ", 99, 0)), "damaged or cut off"),
    ("no metadata", _header(), "names no architecture"),
    ("no layers", _header(n_keys=1, rest=_ARCHITECTURE), "gives no usable llama.block_count"),
    ("layers below zero", _header(n_keys=2, rest=_ARCHITECTURE + _blocks(-3)), "gives no usable llama.block_count"),
    ("more layers than llama.cpp takes", _header(n_keys=2, rest=_ARCHITECTURE + _blocks(513)), "gives no usable"),
    (
        "a tensor of absurd size",
        _header(
            n_tensors=1,
            n_keys=2,
            rest=_ARCHITECTURE + _BLOCKS + _string(b"t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0),
        ),
        "damaged or cut off",
    ),
    (
        "a tensor that is not there",
        _header(
            n_tensors=1, n_keys=2, rest=_ARCHITECTURE + _BLOCKS + _string(b"t") + struct.pack("<IQIQ", 1, 4096, 0, 0)
        ),
        "cut off",
    ),
    (
        "a tensor of an unknown type",
        _header(
            n_tensors=1, n_keys=2, rest=_ARCHITECTURE + _BLOCKS + _string(b"t") + struct.pack("<IQIQ", 1, 32, 999, 0)
        ),
        "damaged or cut off",
    ),
]


@pytest.mark.parametrize(("content", "complaint"), [bad[1:] for bad in _BAD_FILES], ids=[bad[0] for bad in _BAD_FILES])
def test_a_bad_file_is_refused_in_one_sentence_and_in_little_memory(
    content: bytes, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    before = psutil.Process().memory_info().vms
    with pytest.raises(ModelFileError, match=complaint) as caught:
        read_layout(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert psutil.Process().memory_info().vms - before < 64 << 20


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.3, 0.9, 0.999])
def test_a_download_that_stopped_is_told_as_such(tiny: Path, fraction: float, tmp_path: Path) -> None:
    content = tiny.read_bytes()
    path = tmp_path / "torn.gguf"
    path.write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(ModelFileError, match=r"cut off.*download it again"):
        read_layout(path)
    with pytest.raises(ModelFileError):
        Model.load(path)


def test_a_damaged_header_never_kills_the_process(tiny: Path, tmp_path: Path) -> None:
    """Flipped bytes all over the header: read or refused, never more than that."""
    content = tiny.read_bytes()
    header_end = min(tensor.offset_bytes for tensor in read_layout(tiny).tensors)
    random = np.random.default_rng(5)
    path = tmp_path / "damaged.gguf"
    n_refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for at in random.integers(4, header_end, 8):
            damaged[int(at)] = int(random.integers(0, 256))
        path.write_bytes(damaged)
        try:
            read_layout(path)
        except ModelFileError:
            n_refused += 1
    assert n_refused > 20


def test_a_file_that_is_not_there_a_folder_and_a_closed_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ModelFileNotFoundError, match="there is no such file"):
        read_layout(tmp_path / "nothing.gguf")
    with pytest.raises(ModelFileError, match="this is a folder"):
        read_layout(tmp_path)
    if os.geteuid() != 0:
        closed = tmp_path / "closed.gguf"
        closed.write_bytes(_header())
        closed.chmod(0)
        with pytest.raises(ModelFileError, match="cannot be read"):
            read_layout(closed)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model in three files."""
    return split_model(write_model(tmp_path / "whole.gguf", "llama", n_layer=2), tmp_path / "model")


def test_a_split_model_is_read_from_its_first_file(parts: list[Path]) -> None:
    layout = read_layout(parts[0])
    whole = read_layout(parts[0].with_name("whole.gguf"))
    assert layout.files == tuple(parts)
    assert layout.n_bytes == whole.n_bytes
    assert sorted(tensor.name for tensor in layout.tensors) == sorted(tensor.name for tensor in whole.tensors)
    assert {tensor.file_index for tensor in layout.tensors} == {0, 1, 2}
    with Model.load(parts[0]) as model:
        assert model.n_layer == 2


def test_the_identity_of_a_split_model_covers_all_of_its_files(parts: list[Path]) -> None:
    before = read_layout(parts[0]).identity
    content = parts[2].read_bytes()
    name = gguf.GGUFReader(parts[2]).tensors[0].name.encode()
    parts[2].write_bytes(content.replace(name, name[::-1]))
    assert read_layout(parts[0]).identity != before


_Harm = Callable[[list[Path]], Path]


def _remove_second(parts: list[Path]) -> Path:
    parts[1].unlink()
    return parts[0]


def _name_second(parts: list[Path]) -> Path:
    return parts[1]


def _rename_first(parts: list[Path]) -> Path:
    return parts[0].rename(parts[0].with_name("renamed.gguf"))


def _cut_third(parts: list[Path]) -> Path:
    os.truncate(parts[2], parts[2].stat().st_size - 100)
    return parts[0]


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_remove_second, "00002-of-00003.gguf: this part of model-00001-of-00003.gguf is missing"),
        (_name_second, "this is a later part of a model in 3 files; name the first one"),
        (_rename_first, "needs a name that ends in -00001-of-00003.gguf"),
        (_cut_third, "00003-of-00003.gguf: the file is cut off"),
    ],
)
def test_a_split_model_with_a_part_amiss_is_refused_by_its_name(parts: list[Path], harm: _Harm, complaint: str) -> None:
    with pytest.raises(ModelFileError, match=complaint):
        read_layout(harm(parts))


def test_a_home_folder_in_a_path_is_understood(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert read_layout(f"~/{tiny.name}").path == tiny
