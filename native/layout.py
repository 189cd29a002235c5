# SPDX-License-Identifier: MIT
"""What a GGUF says about itself: architecture, sizes, and where every tensor lies. Reads headers only.

Read by native/header.py; sizes against the files are checked here, so that a truncated download is found before
anything is loaded, and what llama.cpp would abort at. Split files (`-00001-of-000NN`) are followed from the first.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from native.errors import ModelFileError, ModelFileNotFoundError, UnsupportedModelError
from native.header import GgufHeader
from native.header_limits import MAX_TENSORS
from native.library import errors_expected
from native.pooling import Pooling

# Architectures whose graph is no single pass over the layers.
_LOOPS = "runs its layers in a loop, and a line passes each layer once: run it on one machine"
_UNSPLITTABLE = {
    "hrm_text": _LOOPS,
    "graniteswitch": "reads a router behind its last layer in front of the first: run it on one machine",
}

# Architectures that make embeddings and no text, and keep nothing of one: a text is computed whole, at once.
# Source: llama_model::create_memory in src/llama-model.cpp.
_ENCODERS = frozenset(
    {
        *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
        *("eurobert", "gemma-embedding"),
    }
)

# Architectures that we do not run: they make sounds or pictures, or text of another's hidden states.
_NOT_RUN = frozenset({"t5", "t5encoder", "wavtokenizer-dec", "clip", "eagle3", "dflash", "gemma4-assistant"})

# Architectures that make no embeddings: llama.cpp reads them as wide as parallel residual streams together, which no
# graph makes, and aborts (n_embd_out_impl in src/models/*.cpp); and models that write by diffusion, and have no cache.
_NOT_EMBEDDED = frozenset({"deepseek4", "qwen4exp", *("dream", "llada", "llada-moe", "rnd1")})

# Source: llm_graph_context::build_pooling in src/llama-graph.cpp.
_RANKING_HEADS = frozenset({"cls.weight", "cls.output.weight"})

# llama.cpp aborts at more. Source: LLAMA_MAX_LAYERS in src/llama-hparams.h.
_MAX_BLOCKS = 512
# The same. Source: LLAMA_MAX_EXPERTS there.
_MAX_EXPERTS = 1024
# The same at others. Source: LLAMA_ROPE_SCALING_TYPES in src/llama-model.cpp.
_ROPE_SCALINGS = frozenset({"none", "linear", "yarn", "longrope"})
# A model without a vocabulary says how many tokens there are, and llama.cpp makes as many. No model has a tenth of it.
_MAX_TOKENS = 1 << 22
# Numbers that a layer keeps of a sequence instead of a KV cache: llama.cpp allocates and clears them even where it
# allocates nothing else, and no tensor stands for their size. The largest that we know of has 2 million.
_MAX_STATE = 1 << 23
# Files of these may have one expert, and llama.cpp takes that for none. Source: load_hparams in src/llama-model.cpp.
_ONE_EXPERT_IS_NONE = frozenset({"hunyuan-dense", "hunyuan_vl"})

# Of a model or an architecture, as we show it.
_MAX_NAME_LENGTH = 200

_LAYER_NAME = re.compile(r"^blk\.(\d+)\.")

# Behind "blk.N": a layer's experts, of which a token uses some; those that every token uses are called `shexp`.
# Source: LLM_FFN_EXPS_REGEX in common/common.h.
EXPERT_NAME = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
_EXPERT_NAME = re.compile(EXPERT_NAME)


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
    `n_expert_used`; both are 0 where a model has none. `pooling`: llama.cpp's number of what the model pools, if it was
    made for embeddings. `is_causal`: whether a token looks at those before it alone.
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
    pooling: int | None
    is_causal: bool
    identity: str
    tensors: tuple[TensorLayout, ...]
    header_bytes: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def is_encoder(self) -> bool:
        """Whether it makes embeddings and cannot make text."""
        return self.architecture in _ENCODERS

    @property
    def writes(self) -> bool:
        """Whether it makes text, token by token."""
        return not self.is_encoder and self.is_causal

    @property
    def ranks(self) -> bool:
        """Whether it can say how well a document answers a query."""
        return any(tensor.name in _RANKING_HEADS for tensor in self.tensors)

    @property
    def default_pooling(self) -> Pooling | None:
        """What a model for embeddings was made with; None for one that was made to write."""
        pooled = {pooling.value: pooling for pooling in Pooling if pooling is not Pooling.NONE}
        pooling = None if self.pooling is None else pooled.get(self.pooling)
        return Pooling.NONE if pooling is None and not self.writes else pooling


def read_layout(path: str | Path, file_bytes: Sequence[int] | None = None) -> ModelLayout:
    """Reads a model's header (all of its files' headers).

    Args:
        path: the model's file, or the first of several.
        file_bytes: how large the files are, where these are only their beginnings: the bytes before the first tensor's.

    Raises:
        ModelFileNotFoundError: the file, or one of its parts, is not there.
        ModelFileError: not a GGUF, damaged, truncated, a part that is not the first, or no language model.
    """
    try:
        path = Path(path).expanduser()
    except RuntimeError:
        raise ModelFileNotFoundError(path, "nobody of that name has a folder here") from None
    with GgufHeader(path) as gguf:
        files = _parts(gguf)
        if file_bytes is not None and len(file_bytes) != len(files):
            raise ModelFileError(path, f"this is a model in {len(files)} files, not in {len(file_bytes)}")
        architecture = gguf.string("general.architecture")
        if not 1 <= len(architecture) <= _MAX_NAME_LENGTH:
            raise ModelFileError(path, "the GGUF names no architecture, so it is no language model")
        n_block = gguf.integer(f"{architecture}.block_count")
        n_layer = n_block - gguf.integer(f"{architecture}.nextn_predict_layers")
        if not 1 <= n_layer <= n_block <= _MAX_BLOCKS:
            raise ModelFileError(path, f"the GGUF gives no usable {architecture}.block_count: it is no language model")
        _check_metadata(gguf, architecture)
        digest = hashlib.sha256()
        header_bytes = [gguf.hash_header(digest)]
        tensors = _tensors(gguf, 0, file_bytes)
        layout = {
            "architecture": architecture,
            "name": gguf.string("general.name", path.stem)[:_MAX_NAME_LENGTH],
            "n_layer": n_layer,
            "n_block": n_block,
            "n_loops": gguf.size(f"{architecture}.num_loops", 1),
            "n_embd": gguf.size(f"{architecture}.embedding_length"),
            "n_ctx_train": gguf.size(f"{architecture}.context_length"),
            "n_vocab": gguf.array_length("tokenizer.ggml.tokens") or gguf.size(f"{architecture}.vocab_size"),
            "n_expert": gguf.size(f"{architecture}.expert_count"),
            "n_expert_used": gguf.size(f"{architecture}.expert_used_count"),
            "pooling": gguf.optional_integer(f"{architecture}.pooling_type"),
            "is_causal": architecture not in _ENCODERS and gguf.boolean(f"{architecture}.attention.causal", True),
        }
    for index, part in enumerate(files[1:], start=1):
        with GgufHeader(part) as gguf:
            # llama.cpp aborts at a number of another type.
            if not gguf.is_uint16("split.no") or gguf.integer("split.no") != index:
                raise ModelFileError(part, f"this is not part {index + 1} of a model in {len(files)} files")
            header_bytes.append(gguf.hash_header(digest))
            tensors += _tensors(gguf, index, file_bytes)
            if len(tensors) > MAX_TENSORS:
                raise ModelFileError(part, f"the model has more than {MAX_TENSORS:,} tensors, as none has")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ModelFileError(path, "the GGUF header is damaged: two tensors have one name")
    return ModelLayout(
        path=path,
        files=files,
        identity=digest.hexdigest(),
        tensors=tuple(tensors),
        header_bytes=tuple(header_bytes),
        **layout,  # type: ignore[arg-type]
    )


def layout_of(model: str | Path | ModelLayout) -> ModelLayout:
    """A layout as it is; that of a path is read. Raises as `read_layout`."""
    return model if isinstance(model, ModelLayout) else read_layout(model)


def header_size(path: str | Path) -> int | None:
    """Bytes before the first tensor's, in the beginning of a GGUF at least: of one that is still being fetched, say.
    None where the header goes on behind the file's end, or is damaged, which looks the same.

    Raises:
        ModelFileNotFoundError: there is no such file.
        ModelFileError: not a GGUF.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelFileNotFoundError(path, "there is no such file") from None
    except OSError as error:
        raise ModelFileError(path, f"cannot be read: {error.strerror}") from None
    if magic != b"GGUF":
        raise ModelFileError(path, "this is not a GGUF file (it does not begin with 'GGUF')")
    try:
        with errors_expected(), GgufHeader(path) as gguf:
            return gguf.n_bytes
    except ModelFileError:
        return None


def _tensors(gguf: GgufHeader, file_index: int, file_bytes: Sequence[int] | None) -> list[TensorLayout]:
    """Those of one file, which must hold all of their bytes."""
    n_file_bytes = gguf.path.stat().st_size if file_bytes is None else file_bytes[file_index]
    tensors = []
    for row in gguf.tensors():
        end = row.offset_bytes + row.n_bytes
        if end > n_file_bytes:
            raise ModelFileError(
                gguf.path,
                f"the file is cut off: tensor {row.name} ends at byte {end:,} and the file has {n_file_bytes:,}; "
                "download it again",
            )
        layer = _LAYER_NAME.match(row.name)
        tensors.append(
            TensorLayout(
                name=row.name,
                type_name=row.type_name,
                file_index=file_index,
                offset_bytes=row.offset_bytes,
                n_bytes=row.n_bytes,
                n_elements=row.n_elements,
                layer=int(layer[1]) if layer else None,
            )
        )
    return tensors


def _check_metadata(gguf: GgufHeader, architecture: str) -> None:
    """Refuses what llama.cpp would abort at. Source: load_hparams in src/llama-model.cpp."""
    n_tokens = gguf.size(f"{architecture}.vocab_size")
    if n_tokens > _MAX_TOKENS:
        raise ModelFileError(
            gguf.path, f"the GGUF claims {n_tokens:,} tokens, and no model has more than {_MAX_TOKENS:,}"
        )
    if max(_state_sizes(gguf, architecture)) > _MAX_STATE:
        raise ModelFileError(gguf.path, "the GGUF claims a larger recurrent state than any model has")
    scaling = gguf.string(f"{architecture}.rope.scaling.type", "linear")
    if scaling not in _ROPE_SCALINGS:
        raise ModelFileError(gguf.path, f"llama.cpp knows no rope scaling {scaling[:_MAX_NAME_LENGTH]!r}")
    n_expert = gguf.size(f"{architecture}.expert_count")
    if architecture in _ONE_EXPERT_IS_NONE and n_expert <= 1:
        return
    n_used = max(gguf.sizes(f"{architecture}.expert_used_count", _MAX_BLOCKS), default=0)
    n_group, n_group_used = (gguf.size(f"{architecture}.expert_group_{of}") for of in ("count", "used_count"))
    is_good = n_used == 0 and n_group == 0 if n_expert == 0 else 1 <= n_used <= n_expert and n_group < n_expert
    if n_group > 1:
        is_good = is_good and n_expert % n_group == 0 and 1 <= n_group_used < n_group
    if n_expert > _MAX_EXPERTS or not is_good:
        raise ModelFileError(
            gguf.path,
            f"the GGUF claims {n_expert:,} experts in {n_group:,} groups, of which {n_used:,} are used: no model is so",
        )


def _state_sizes(gguf: GgufHeader, architecture: str) -> list[int]:
    """Numbers in the recurrent states that a layer may have. Source: n_embd_r and n_embd_s in src/llama-hparams.cpp."""

    def size(key: str) -> int:
        return gguf.size(f"{architecture}.{key}")

    n_embd, n_head = (
        size("embedding_length"),
        max(gguf.sizes(f"{architecture}.attention.head_count", _MAX_BLOCKS) or [0]),
    )
    kernel, inner, state = (size(f"ssm.{of}") for of in ("conv_kernel", "inner_size", "state_size"))
    head = size("kda.head_dim")
    return [
        n_embd * size("token_shift_count"),
        n_embd * size("wkv.head_size"),
        n_embd * size("shortconv.l_cache"),
        max(kernel, 4) * 3 * n_head * head,
        n_head * head * head,
        kernel * (inner + 2 * size("ssm.group_count") * state),
        inner * state,
    ]


def _parts(first: GgufHeader) -> tuple[Path, ...]:
    """All files of a split model, named as llama.cpp's gguf-split names them; just this one if it is whole."""
    count = first.integer("split.count")
    if count <= 1:
        return (first.path,)
    if first.integer("split.no") != 0:
        raise ModelFileError(first.path, f"this is a later part of a model in {count} files; name the first one")
    prefix = c.create_string_buffer(4096)
    if llama_cpp.llama_split_prefix(prefix, len(prefix), os.fsencode(first.path), 0, count) <= 0:
        raise ModelFileError(
            first.path, f"a model in {count} files needs a name that ends in -00001-of-{count:05}.gguf"
        )
    parts = []
    # One after the other: `count` is whatever the file says.
    for number in range(1, count + 1):
        parts.append(Path(f"{os.fsdecode(prefix.value)}-{number:05}-of-{count:05}.gguf"))
        if not parts[-1].exists():
            raise ModelFileNotFoundError(parts[-1], f"this part of {first.path.name} is missing")
    return tuple(parts)


def check_runs(layout: ModelLayout) -> None:
    """Refuses what neither generates text token by token nor embeds it, which is all that we run; llama.cpp would abort
    or give noise.

    Raises:
        UnsupportedModelError: with the architecture.
    """
    if layout.architecture in _NOT_RUN:
        raise UnsupportedModelError(layout.architecture, "neither generates text token by token nor embeds it")


def check_embeds(layout: ModelLayout, pooling: Pooling) -> None:
    """Refuses to make embeddings where llama.cpp would abort, and ranks where it would make numbers without a meaning.

    Raises:
        UnsupportedModelError: with the architecture.
    """
    if layout.architecture in _NOT_EMBEDDED:
        raise UnsupportedModelError(layout.architecture, "makes no embeddings in llama.cpp: leave --embeddings out")
    if pooling is Pooling.RANK and not layout.ranks:
        reason = "is no reranker: it has no head that ranks (cls.weight or cls.output.weight)"
        raise UnsupportedModelError(layout.architecture, reason)


def check_splittable(layout: ModelLayout) -> None:
    """Refuses what a line of stages cannot run, before any weight moves.

    Raises:
        UnsupportedModelError: with the architecture and the reason.
    """
    check_runs(layout)
    reason = _LOOPS if layout.n_loops > 1 else _UNSPLITTABLE.get(layout.architecture)
    if reason is not None:
        raise UnsupportedModelError(layout.architecture, reason)
