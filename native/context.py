# SPDX-License-Identifier: MIT
"""A context: the KV cache of a model or a stage, and the step that runs a batch through it.

Used by one thread at a time (the worker's engine thread). The GIL is released while llama.cpp computes.
"""

from __future__ import annotations

import ctypes as c
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from native.control_groups import processor_limit
from native.errors import CrossingError, DecodeError, LoadFailedError
from native.layout import check_embeds
from native.library import CrossingStruct, crashes_refused, forget_errors, last_errors, scheduler_of, wire
from native.memory import MemoryUse, measure
from native.model import Model
from native.pooling import Pooling

# ggml's numbers for the types a KV cache may have. Source: enum ggml_type in ggml/include/ggml.h.
_KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}

# ggml's numbers for the types that may cross, with our names.
_CROSSING_TYPES = {0: "f32", 1: "f16", 26: "i32", 27: "i64", 30: "bf16"}
_CROSSING_NUMBERS = {name: number for number, name in _CROSSING_TYPES.items()}

# llama.cpp counts cells in 32 bits and rounds up; half of that leaves it room.
_MAX_CTX = 2**31 - 1

# Crossing tensors that one step may capture; a boundary has a handful per ubatch.
_MAX_CAPTURED = 4096


class FlashAttention(Enum):
    """llama.cpp's flash attention switch."""

    AUTO = -1
    OFF = 0
    ON = 1


@dataclass(frozen=True, slots=True)
class ContextParams:
    """How much a context holds. `n_ctx_seq` is tokens per sequence; llama.cpp rounds it up to a multiple of 256.
    `pooling`: it makes embeddings, of that kind; None: it makes none."""

    n_ctx_seq: int = 4096
    n_seq_max: int = 4
    n_batch: int = 512
    n_ubatch: int = 512
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    flash_attention: FlashAttention = FlashAttention.AUTO
    kv_unified: bool = False
    n_threads: int | None = None
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        if min(self.n_ctx_seq, self.n_seq_max, self.n_batch, self.n_ubatch) < 1:
            raise ValueError("context, sequences, batch and ubatch must each be at least 1")
        if self.n_seq_max > llama_cpp.llama_max_parallel_sequences():
            raise ValueError(
                f"{self.n_seq_max} parallel sequences are more than llama.cpp's "
                f"{llama_cpp.llama_max_parallel_sequences()}"
            )
        if min(self.n_batch, self.n_ubatch) < self.n_seq_max:
            raise ValueError(
                f"batch and ubatch must hold a token of each of the {self.n_seq_max} sequences, "
                f"not {self.n_batch} and {self.n_ubatch}"
            )
        if self.n_ctx_seq * self.n_seq_max > _MAX_CTX:
            raise ValueError(
                f"a context of {self.n_ctx_seq} tokens for each of {self.n_seq_max} sequences is more than llama.cpp's "
                f"{_MAX_CTX} in all"
            )
        for name in (self.kv_type_k, self.kv_type_v):
            if name not in _KV_TYPES:
                raise ValueError(f"no KV cache type {name!r}; there are: {', '.join(_KV_TYPES)}")
        if self.n_threads is not None and self.n_threads < 1:
            raise ValueError("threads must be at least 1")


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of one step: ids, positions and sequences, each int32 of shape (n_tokens,), and the rows (ascending
    indices into them, int32) that the last stage computes logits for. `embeds`: it makes embeddings instead, for which
    llama.cpp takes every row for one of these."""

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    seq_ids: NDArray[np.int32]
    output_rows: NDArray[np.int32]
    embeds: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if n == 0 or len(self.positions) != n or len(self.seq_ids) != n:
            raise ValueError("a batch has at least one token, and a position and a sequence for each")
        if len(self.output_rows) and not _all_within(self.output_rows, n):
            raise ValueError(f"output rows must lie within the batch of {n}")


@dataclass(frozen=True, slots=True)
class CrossingTensor:
    """A tensor that crosses a boundary: the key both neighbours derive, a dtype ("f32", "f16", "bf16", "i32", "i64"),
    ggml's ne[] (first dimension contiguous, four of them), and row-major little-endian bytes without gaps."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Context:
    """The state of up to `n_seq_max` sequences on one model or stage."""

    def __init__(self, model: Model, params: ContextParams) -> None:
        """Allocates KV cache and compute buffers.

        Raises:
            LoadFailedError: llama.cpp refused, with its reason (mostly: no memory).
            UnsupportedModelError: this model makes no embeddings.
            ValueError: no flash attention, for cards that share tensors; more tokens than an encoder knows positions.
        """
        if params.pooling is not None:
            check_embeds(model.layout, params.pooling)
        if model.layout.is_encoder and params.n_ctx_seq > model.layout.n_ctx_train:
            # llama.cpp aborts at a position that the model has no row for.
            raise ValueError(
                f"{model.layout.path.name} knows {model.layout.n_ctx_train} positions, not {params.n_ctx_seq}"
            )
        if model.place.joined is not None:
            params = _sharing_tensors(params)
        self._model = model
        self.params = params
        forget_errors()
        with crashes_refused(model.is_dry):
            handle = llama_cpp.llama_init_from_model(model.handle, context_params(params))
        if not handle:
            raise LoadFailedError(f"llama.cpp could not make a context: {last_errors()}")
        self.handle = int(handle)
        self.n_ctx_seq: int = llama_cpp.llama_n_ctx_seq(self.handle)
        self._memory = llama_cpp.llama_get_memory(self.handle)
        self._keeps_state: bool = llama_cpp.llama_model_is_recurrent(model.handle) or llama_cpp.llama_model_is_hybrid(
            model.handle
        )
        # What was set aside for computing does for embeddings too; they are for steps that ask for them.
        self._embeds = params.pooling is not None
        self._batch = _BatchBuffers(params.n_batch)
        self._captured = (CrossingStruct * _MAX_CAPTURED)()

    def step(self, batch: Batch, crossing: Sequence[CrossingTensor] = ()) -> list[CrossingTensor]:
        """Runs a batch through this stage and returns what crosses to the next one (nothing on the last).

        Args:
            batch: at most n_batch tokens, sequences below n_seq_max.
            crossing: what the stage before returned for the same batch; nothing on the first stage.

        Raises:
            ValueError: a batch out of bounds; nothing was computed.
            CrossingError: `crossing` does not hold exactly what this stage's graph asks for.
            DecodeError: llama.cpp failed. After either the cache is not to be trusted.
        """
        self._check(batch)
        before, after = self._model.wires.before, self._model.wires.after
        given = _crossing_structs(crossing)
        if before is not None:
            wire().caravan_wire_begin(before, given, len(crossing))
        elif crossing:
            raise ValueError("the first stage takes no crossing tensors")
        self._decode(batch)
        return [] if after is None else self._take_captured(after)

    def try_step(self, batch: Batch) -> None:
        """Runs a batch to see how long it takes: what the stage before would have sent is made up.

        Returns when the device is done. The cells it leaves in the KV cache mean nothing: clear them.

        Args:
            batch: at most n_batch tokens, sequences below n_seq_max.

        Raises:
            ValueError: a batch out of bounds; nothing was computed.
            DecodeError: llama.cpp failed.
        """
        self._check(batch)
        if self._model.wires.before is not None:
            wire().caravan_wire_begin_made_up(self._model.wires.before)
        self._decode(batch)
        llama_cpp.llama_synchronize(self.handle)

    def logits(self, row: int) -> NDArray[np.float32]:
        """Logits of an output row of the last step's batch: float32 (n_vocab,), a view valid until the next step.

        Raises:
            ValueError: the row was not flagged for output, or this is not the last stage.
        """
        pointer = llama_cpp.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise ValueError(f"row {row} of the last batch has no logits")
        return np.ctypeslib.as_array(pointer, (self._model.n_vocab,))

    def embeddings(self, row: int, seq_id: int) -> NDArray[np.float32]:
        """The embedding of a sequence of the last step's batch, or with Pooling.NONE of that row: float32
        (n_embd_out,), with Pooling.RANK its ranks, (n_ranks,); a view valid until the next step.

        Raises:
            ValueError: the step made none, or this is not the last stage.
        """
        if self.params.pooling is Pooling.NONE:
            pointer = llama_cpp.llama_get_embeddings_ith(self.handle, row)
        else:
            pointer = llama_cpp.llama_get_embeddings_seq(self.handle, seq_id)
        if not self._embeds or not self._model.is_last or not pointer:
            raise ValueError(f"row {row} of the last batch has no embedding")
        width = self._model.n_ranks if self.params.pooling is Pooling.RANK else self._model.n_embd_out
        return np.ctypeslib.as_array(pointer, (width,))

    @property
    def has_memory(self) -> bool:
        """Whether the model keeps a KV cache or state; one that attends in both directions has none."""
        return bool(self._memory)

    @property
    def can_shift(self) -> bool:
        """Whether a part of a sequence can be forgotten and what is after it moved up."""
        return self.has_memory and not self._keeps_state and bool(llama_cpp.llama_memory_can_shift(self._memory))

    def memory(self) -> MemoryUse:
        """Exact bytes of this model's and context's buffers, wires left out."""
        use = measure(self._model, self.handle, self.params.n_ubatch)
        return use.with_host_buffer(self.output_bytes, is_cpu=self._model.is_cpu)

    @property
    def output_bytes(self) -> int:
        """What llama.cpp takes for the outputs of a batch that is embedded, when the first one comes; it does not tell.

        Source: llama_context::output_reserve in src/llama-context.cpp; where there is no memory, encode() beside it.
        """
        if self.params.pooling is None:
            return 0
        n_rows = min(self.params.n_ubatch, self.params.n_batch)
        n_logits = self._model.n_vocab if self._computes_outputs else 0
        return 4 * n_rows * (n_logits + (self._model.n_embd_out if self._model.is_last else 0))

    @property
    def _computes_outputs(self) -> bool:
        """Whether a batch that is embedded has outputs here: on the last stage, and on all where llama.cpp knows no
        batch without."""
        return self._model.is_last or not self.has_memory

    def kv_remove(self, seq_id: int, start: int, end: int) -> bool:
        """Forgets positions [start, end) of a sequence (end = -1: to its end). False if the model cannot forget a part
        (recurrent layers), in which case nothing changed."""
        if self._keeps_state and 0 <= end <= llama_cpp.llama_memory_seq_pos_max(self._memory, seq_id):
            # llama.cpp calls this done, and the state still holds what was to be forgotten.
            return False
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, seq_id, start, end))

    def kv_copy(self, source: int, target: int, start: int, end: int) -> None:
        """Lets `target` share positions [start, end) of `source` (end = -1: to its end).

        Raises:
            ValueError: a part of a sequence, where each has a KV cache of its own: llama.cpp copies those whole.
        """
        if not self.params.kv_unified and not (start <= 0 and end < 0):
            raise ValueError("with a KV cache per sequence only whole sequences can be copied: start 0, end -1")
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, start, end)

    def kv_keep(self, seq_id: int) -> None:
        """Forgets every other sequence."""
        llama_cpp.llama_memory_seq_keep(self._memory, seq_id)

    def kv_shift(self, seq_id: int, start: int, end: int, delta: int) -> None:
        """Moves positions [start, end) of a sequence by `delta` (end = -1: to its end).

        Raises:
            ValueError: this model's cache cannot shift.
        """
        if not llama_cpp.llama_memory_can_shift(self._memory):
            raise ValueError("this model's KV cache cannot shift positions")
        llama_cpp.llama_memory_seq_add(self._memory, seq_id, start, end, delta)

    def kv_clear(self) -> None:
        """Forgets everything."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        """Frees the context; harmless twice. The model stays."""
        if self.handle:
            llama_cpp.llama_free(self.handle)
            self.handle = 0

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, batch: Batch) -> None:
        """Raises ValueError for what llama.cpp must not be given."""
        if len(batch.tokens) > self.params.n_batch:
            raise ValueError(f"a batch of {len(batch.tokens)} tokens is more than n_batch = {self.params.n_batch}")
        if not _all_within(batch.seq_ids, self.params.n_seq_max):
            raise ValueError(f"sequence ids must lie in [0, {self.params.n_seq_max})")
        if not _all_within(batch.tokens, self._model.n_vocab):
            raise ValueError(f"token ids must lie in [0, {self._model.n_vocab})")
        is_causal = self.has_memory and self._model.layout.is_causal
        if not is_causal and len(batch.tokens) > self.params.n_ubatch:
            raise ValueError(
                f"this model attends in both directions and takes a batch whole: {len(batch.tokens)} tokens are more "
                f"than n_ubatch = {self.params.n_ubatch}"
            )
        if batch.embeds and self.params.pooling is None:
            raise ValueError("this context was not made for embeddings")
        if batch.embeds and self._keeps_state and (batch.seq_ids != batch.seq_ids[0]).any():
            # llama.cpp cuts a batch of several otherwise where it is embedded, and stages that are not told do not.
            raise ValueError("a model with recurrent layers embeds one sequence in a batch")

    def _decode(self, batch: Batch) -> None:
        """Computes a batch, once the wire before knows what arrived; raises CrossingError or DecodeError."""
        before, after = self._model.wires.before, self._model.wires.after
        if after is not None:
            wire().caravan_wire_begin(after, None, 0)
        embeds = batch.embeds and self._computes_outputs
        if embeds != self._embeds:
            llama_cpp.llama_set_embeddings(self.handle, embeds)
            self._embeds = embeds
        if embeds or not self.has_memory:
            self._batch.fill(batch, slice(None))
        else:
            self._batch.fill(batch, batch.output_rows if self._model.is_last else slice(0))
        forget_errors()
        with self._holding_what_crosses():
            status = llama_cpp.llama_decode(self.handle, self._batch.struct)
        for handle in (before, after):
            fault = wire().caravan_wire_end(handle) if handle is not None else None
            if fault is not None:
                raise CrossingError(fault.decode("utf-8", "replace"))
        if status != 0:
            raise DecodeError(_decode_reason(status, len(batch.tokens)))

    @contextmanager
    def _holding_what_crosses(self) -> Iterator[None]:
        """Experts beside a GPU: what follows the last of them is computed where llama.cpp would without a wire."""
        after = self._model.wires.after
        is_held = after is not None and not self._model.is_cpu and self._model.host_experts.layers
        scheduler = scheduler_of(self.handle) if is_held else None
        if scheduler is None:
            yield
            return
        # The layer in front of the wire after is on the last of several cards.
        wire().caravan_wire_hold(after, self._model.wires.fences[-1], scheduler)
        try:
            yield
        finally:
            wire().caravan_wire_hold(after, None, None)

    def _take_captured(self, wire_handle: int) -> list[CrossingTensor]:
        n = wire().caravan_wire_captured(wire_handle, self._captured, _MAX_CAPTURED)
        if n > _MAX_CAPTURED:
            raise CrossingError(f"{n} tensors cross in one step, at most {_MAX_CAPTURED} are carried")
        return [
            CrossingTensor(
                key=struct.key.decode("utf-8", "replace"),
                dtype=_CROSSING_TYPES[struct.type],
                shape=tuple(struct.ne),
                data=c.string_at(struct.data, struct.size),
            )
            for struct in self._captured[:n]
        ]


def _sharing_tensors(params: ContextParams) -> ContextParams:
    """As llama.cpp has it for its split mode "tensor"; raises ValueError without flash attention."""
    if params.flash_attention is FlashAttention.OFF:
        raise ValueError(
            "cards can share tensors only with flash attention, and it is off: switch it on (--flash-attention on), or"
            " share layers (--split layer)"
        )
    return replace(params, flash_attention=FlashAttention.ON)


class _BatchBuffers:
    """llama.cpp's batch over numpy arrays, filled without a loop over tokens. One sequence per token."""

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._seq_ids = np.zeros(capacity, np.int32)
        self._n_seq_ids = np.ones(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        itemsize = self._seq_ids.itemsize
        self._seq_id_pointers = (self._seq_ids.ctypes.data + itemsize * np.arange(capacity)).astype(np.uintp)
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self._tokens.ctypes.data_as(c.POINTER(c.c_int32)),
            embd=None,
            pos=self._positions.ctypes.data_as(c.POINTER(c.c_int32)),
            n_seq_id=self._n_seq_ids.ctypes.data_as(c.POINTER(c.c_int32)),
            seq_id=self._seq_id_pointers.ctypes.data_as(c.POINTER(c.POINTER(c.c_int32))),
            logits=self._outputs.ctypes.data_as(c.POINTER(c.c_int8)),
        )

    def fill(self, batch: Batch, outputs: NDArray[np.int32] | slice) -> None:
        n = len(batch.tokens)
        self._tokens[:n] = batch.tokens
        self._positions[:n] = batch.positions
        self._seq_ids[:n] = batch.seq_ids
        self._outputs[:n] = 0
        self._outputs[:n][outputs] = 1
        self.struct.n_tokens = n


def context_params(params: ContextParams) -> llama_cpp.llama_context_params:
    """llama.cpp's parameters for ours. For the other modules of this room."""
    result: llama_cpp.llama_context_params = llama_cpp.llama_context_default_params()
    n_threads = params.n_threads or default_threads()
    result.n_ctx = params.n_ctx_seq * params.n_seq_max
    result.n_seq_max = params.n_seq_max
    result.n_batch = params.n_batch
    result.n_ubatch = min(params.n_ubatch, params.n_batch)
    result.n_threads = n_threads
    result.n_threads_batch = n_threads
    result.type_k = _KV_TYPES[params.kv_type_k]
    result.type_v = _KV_TYPES[params.kv_type_v]
    result.flash_attn_type = params.flash_attention.value
    result.kv_unified = params.kv_unified
    result.no_perf = True
    if params.pooling is not None:
        result.embeddings = True
        result.pooling_type = params.pooling.value
    return result


def default_threads() -> int:
    """Threads for a CPU stage: the cores this process may run on, and as many as it is given the time of.

    Threads wait for each other after every operation: one whose time is used up holds up all.
    """
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = processor_limit()
    return n_cores if limit is None else max(1, min(n_cores, int(limit)))


def _crossing_structs(crossing: Sequence[CrossingTensor]) -> c.Array[CrossingStruct] | None:
    if not crossing:
        return None
    structs = (CrossingStruct * len(crossing))()
    for struct, tensor in zip(structs, crossing, strict=True):
        number = _CROSSING_NUMBERS.get(tensor.dtype)
        if number is None or not 1 <= len(tensor.shape) <= 4:
            raise CrossingError(f"crossing tensor {tensor.key} has dtype {tensor.dtype} and shape {tensor.shape}")
        struct.key = tensor.key.encode()
        struct.type = number
        struct.ne[:] = [*tensor.shape, 1, 1, 1][:4]
        struct.data = c.cast(c.c_char_p(tensor.data), c.c_void_p)
        struct.size = len(tensor.data)
    return structs


def _all_within(values: NDArray[np.int32], end: int) -> bool:
    """Whether all lie in [0, end)."""
    # For the few tokens of a decode step Python's own min and max cost a tenth of numpy's.
    extremes = values.tolist() if len(values) <= 32 else [int(values.min()), int(values.max())]
    return min(extremes) >= 0 and max(extremes) < end


def _decode_reason(status: int, n_tokens: int) -> str:
    if status == 1:
        return f"no room in the KV cache for a batch of {n_tokens}: use a longer context or fewer parallel sequences"
    return f"llama.cpp failed a batch of {n_tokens} (status {status}): {last_errors()}"
