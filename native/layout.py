# SPDX-License-Identifier: MIT
"""What a GGUF says about itself: architecture, sizes, and where every tensor lies. Reads headers only.

Parsed by ggml's own GGUF reader, which checks counts and offsets; sizes against the files are checked here, so that
a truncated download is found before anything is loaded. Split files (`-00001-of-000NN`) are followed from the first.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from native.errors import ModelFileError, ModelFileNotFoundError, UnsupportedModelError
from native.library import declare, errors_expected, forget_errors, ggml_base, last_errors

# Architectures whose graph is no single pass over the layers.
_LOOPS = "runs its layers in a loop, and a line passes each layer once: run it on one machine"
_UNSPLITTABLE = {
    "hrm_text": _LOOPS,
    "graniteswitch": "reads a router behind its last layer in front of the first: run it on one machine",
}

# Architectures that make embeddings of a text, or text of another's hidden states: they predict no next token.
_NOT_GENERATIVE = frozenset(
    {
        *(
            "bert",
            "modern-bert",
            "nomic-bert",
            "nomic-bert-moe",
            "neo-bert",
            "jina-bert-v2",
            "jina-bert-v3",
            "eurobert",
        ),
        *("gemma-embedding", "llama-embed", "t5", "t5encoder", "wavtokenizer-dec", "clip"),
        *("eagle3", "dflash", "gemma4-assistant"),
    }
)

# llama.cpp aborts at more. Source: LLAMA_MAX_LAYERS in src/llama-hparams.h.
_MAX_BLOCKS = 512

_LAYER_NAME = re.compile(r"^blk\.(\d+)\.")

# Behind "blk.N": a layer's experts, of which a token uses some; those that every token uses are called `shexp`.
# Source: LLM_FFN_EXPS_REGEX in common/common.h.
EXPERT_NAME = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
_EXPERT_NAME = re.compile(EXPERT_NAME)

# GGUF value types. Source: enum gguf_type in ggml/include/gguf.h.
_INTEGER_READERS: dict[int, tuple[str, type[c._SimpleCData[int]]]] = {
    0: ("gguf_get_val_u8", c.c_uint8),
    1: ("gguf_get_val_i8", c.c_int8),
    2: ("gguf_get_val_u16", c.c_uint16),
    3: ("gguf_get_val_i16", c.c_int16),
    4: ("gguf_get_val_u32", c.c_uint32),
    5: ("gguf_get_val_i32", c.c_int32),
    10: ("gguf_get_val_u64", c.c_uint64),
    11: ("gguf_get_val_i64", c.c_int64),
}
_STRING_TYPE = 8
_ARRAY_TYPE = 9


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """One tensor: its ggml type, its bytes in which file of the model, and the layer it belongs to, if any."""

    name: str
    type_name: str
    file_index: int
    offset_bytes: int
    n_bytes: int
    n_elements: int
    layer: int | None

    @property
    def is_expert(self) -> bool:
        """Whether it holds a layer's experts, of which a token uses some."""
        return _EXPERT_NAME.search(self.name) is not None


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """A model's header. `identity` is the hex SHA-256 of header, metadata and tensor table of every file, which are its
    first `header_bytes`.

    `n_layer` layers make a token. Blocks behind them (`n_block` counts all) predict tokens further ahead (MTP);
    llama.cpp leaves those out, so a line shares out the others. Of `n_expert` experts in a layer a token uses
    `n_expert_used`; both are 0 where a model has none.
    """

    path: Path
    files: tuple[Path, ...]
    architecture: str
    name: str
    n_layer: int
    n_block: int
    n_loops: int
    n_embd: int
    n_ctx_train: int
    n_vocab: int
    n_expert: int
    n_expert_used: int
    identity: str
    tensors: tuple[TensorLayout, ...]
    header_bytes: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)


class _InitParams(c.Structure):
    _fields_ = (("no_alloc", c.c_bool), ("ctx", c.c_void_p))


_init = declare(ggml_base, "gguf_init_from_file", c.c_void_p, c.c_char_p, _InitParams)
_free = declare(ggml_base, "gguf_free", None, c.c_void_p)
_data_offset = declare(ggml_base, "gguf_get_data_offset", c.c_size_t, c.c_void_p)
_find_key = declare(ggml_base, "gguf_find_key", c.c_int64, c.c_void_p, c.c_char_p)
_kv_type = declare(ggml_base, "gguf_get_kv_type", c.c_int, c.c_void_p, c.c_int64)
_string = declare(ggml_base, "gguf_get_val_str", c.c_char_p, c.c_void_p, c.c_int64)
_array_length = declare(ggml_base, "gguf_get_arr_n", c.c_size_t, c.c_void_p, c.c_int64)
_n_tensors = declare(ggml_base, "gguf_get_n_tensors", c.c_int64, c.c_void_p)
_tensor_name = declare(ggml_base, "gguf_get_tensor_name", c.c_char_p, c.c_void_p, c.c_int64)
_tensor_type = declare(ggml_base, "gguf_get_tensor_type", c.c_int, c.c_void_p, c.c_int64)
_tensor_offset = declare(ggml_base, "gguf_get_tensor_offset", c.c_size_t, c.c_void_p, c.c_int64)
_tensor_size = declare(ggml_base, "gguf_get_tensor_size", c.c_size_t, c.c_void_p, c.c_int64)
_type_name = declare(ggml_base, "ggml_type_name", c.c_char_p, c.c_int)
_type_size = declare(ggml_base, "ggml_type_size", c.c_size_t, c.c_int)
_block_size = declare(ggml_base, "ggml_blck_size", c.c_int64, c.c_int)


class _DamagedHeaderError(ModelFileError):
    """It begins like a GGUF, and its header cannot be read to the end."""


class _Gguf:
    """One open GGUF header."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle: int | None = None
        if not path.exists():
            raise ModelFileNotFoundError(path, "there is no such file")
        if path.is_dir():
            raise ModelFileError(path, "this is a folder; name the GGUF file in it")
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise ModelFileError(path, f"cannot be read: {error.strerror}") from None
        if magic != b"GGUF":
            raise ModelFileError(path, "this is not a GGUF file (it does not begin with 'GGUF')")
        forget_errors()
        self.handle = _init(str(path).encode(), _InitParams(True, None))
        if self.handle is None:
            raise _DamagedHeaderError(
                path, f"the GGUF header is damaged or cut off ({last_errors()}); download it again"
            )

    def __enter__(self) -> _Gguf:
        return self

    def __exit__(self, *_: object) -> None:
        if self.handle is not None:
            _free(self.handle)
            self.handle = None

    def string(self, key: str, default: str = "") -> str:
        at = _find_key(self.handle, key.encode())
        if at < 0 or _kv_type(self.handle, at) != _STRING_TYPE:
            return default
        return str(_string(self.handle, at).decode("utf-8", "replace"))

    def integer(self, key: str, default: int = 0) -> int:
        at = _find_key(self.handle, key.encode())
        reader = _INTEGER_READERS.get(_kv_type(self.handle, at)) if at >= 0 else None
        if reader is None:
            return default
        name, result = reader
        return int(declare(ggml_base, name, result, c.c_void_p, c.c_int64)(self.handle, at))

    def array_length(self, key: str) -> int:
        at = _find_key(self.handle, key.encode())
        return int(_array_length(self.handle, at)) if at >= 0 and _kv_type(self.handle, at) == _ARRAY_TYPE else 0

    def header_bytes(self) -> bytes:
        with self.path.open("rb") as file:
            return file.read(_data_offset(self.handle))

    def tensors(self, file_index: int, file_bytes: int | None) -> list[TensorLayout]:
        start = _data_offset(self.handle)
        if file_bytes is None:
            file_bytes = self.path.stat().st_size
        tensors = []
        for i in range(_n_tensors(self.handle)):
            name = _tensor_name(self.handle, i).decode("utf-8", "replace")
            layer = _LAYER_NAME.match(name)
            kind, n_bytes = _tensor_type(self.handle, i), _tensor_size(self.handle, i)
            tensor = TensorLayout(
                name=name,
                type_name=_type_name(kind).decode(),
                file_index=file_index,
                offset_bytes=start + _tensor_offset(self.handle, i),
                n_bytes=n_bytes,
                n_elements=n_bytes // _type_size(kind) * _block_size(kind),
                layer=int(layer[1]) if layer else None,
            )
            end = tensor.offset_bytes + tensor.n_bytes
            if end > file_bytes:
                raise ModelFileError(
                    self.path,
                    f"the file is cut off: tensor {name} ends at byte {end:,} and the file has {file_bytes:,}; "
                    "download it again",
                )
            tensors.append(tensor)
        return tensors


def read_layout(path: str | Path, file_bytes: Sequence[int] | None = None) -> ModelLayout:
    """Reads a model's header (all of its files' headers).

    Args:
        path: the model's file, or the first of several.
        file_bytes: how large the files are, where these are only their beginnings: the bytes before the first tensor's.

    Raises:
        ModelFileNotFoundError: the file, or one of its parts, is not there.
        ModelFileError: not a GGUF, damaged, truncated, a part that is not the first, or no language model.
    """
    path = Path(path).expanduser()
    with _Gguf(path) as gguf:
        files = _parts(gguf)
        if file_bytes is not None and len(file_bytes) != len(files):
            raise ModelFileError(path, f"this is a model in {len(files)} files, not in {len(file_bytes)}")
        architecture = gguf.string("general.architecture")
        if not architecture:
            raise ModelFileError(path, "the GGUF names no architecture, so it is no language model")
        n_block = gguf.integer(f"{architecture}.block_count")
        n_layer = n_block - gguf.integer(f"{architecture}.nextn_predict_layers")
        if not 1 <= n_layer <= n_block <= _MAX_BLOCKS:
            raise ModelFileError(path, f"the GGUF gives no usable {architecture}.block_count: it is no language model")
        header = gguf.header_bytes()
        digest, header_bytes = hashlib.sha256(header), [len(header)]
        tensors = gguf.tensors(0, file_bytes[0] if file_bytes else None)
        layout = {
            "architecture": architecture,
            "name": gguf.string("general.name", path.stem),
            "n_layer": n_layer,
            "n_block": n_block,
            "n_loops": gguf.integer(f"{architecture}.num_loops", 1),
            "n_embd": gguf.integer(f"{architecture}.embedding_length"),
            "n_ctx_train": gguf.integer(f"{architecture}.context_length"),
            "n_vocab": gguf.array_length("tokenizer.ggml.tokens") or gguf.integer(f"{architecture}.vocab_size"),
            "n_expert": gguf.integer(f"{architecture}.expert_count"),
            "n_expert_used": gguf.integer(f"{architecture}.expert_used_count"),
        }
    for index, part in enumerate(files[1:], start=1):
        with _Gguf(part) as gguf:
            header = gguf.header_bytes()
            digest.update(header)
            header_bytes.append(len(header))
            tensors += gguf.tensors(index, file_bytes[index] if file_bytes else None)
    return ModelLayout(
        path=path,
        files=files,
        identity=digest.hexdigest(),
        tensors=tuple(tensors),
        header_bytes=tuple(header_bytes),
        **layout,  # type: ignore[arg-type]
    )


def header_size(path: str | Path) -> int | None:
    """Bytes before the first tensor's, in the beginning of a GGUF at least: of one that is still being fetched, say.
    None where the header goes on behind the file's end, or is damaged, which looks the same.

    Raises:
        ModelFileNotFoundError: there is no such file.
        ModelFileError: not a GGUF.
    """
    try:
        with errors_expected(), _Gguf(Path(path)) as gguf:
            return int(_data_offset(gguf.handle))
    except _DamagedHeaderError:
        return None


def _parts(first: _Gguf) -> tuple[Path, ...]:
    """All files of a split model, named as llama.cpp's gguf-split names them; just this one if it is whole."""
    count = first.integer("split.count")
    if count <= 1:
        return (first.path,)
    if first.integer("split.no") != 0:
        raise ModelFileError(first.path, f"this is a later part of a model in {count} files; name the first one")
    prefix = c.create_string_buffer(4096)
    if llama_cpp.llama_split_prefix(prefix, len(prefix), str(first.path).encode(), 0, count) <= 0:
        raise ModelFileError(
            first.path, f"a model in {count} files needs a name that ends in -00001-of-{count:05}.gguf"
        )
    parts = []
    # One after the other: `count` is whatever the file says.
    for number in range(1, count + 1):
        parts.append(Path(f"{prefix.value.decode()}-{number:05}-of-{count:05}.gguf"))
        if not parts[-1].exists():
            raise ModelFileNotFoundError(parts[-1], f"this part of {first.path.name} is missing")
    return tuple(parts)


def check_generative(layout: ModelLayout) -> None:
    """Refuses what generates no text token by token, which is all that we run; llama.cpp would abort or give noise.

    Raises:
        UnsupportedModelError: with the architecture.
    """
    if layout.architecture in _NOT_GENERATIVE:
        raise UnsupportedModelError(layout.architecture, "does not generate text token by token")


def check_splittable(layout: ModelLayout) -> None:
    """Refuses what a line of stages cannot run, before any weight moves.

    Raises:
        UnsupportedModelError: with the architecture and the reason.
    """
    check_generative(layout)
    reason = _LOOPS if layout.n_loops > 1 else _UNSPLITTABLE.get(layout.architecture)
    if reason is not None:
        raise UnsupportedModelError(layout.architecture, reason)
