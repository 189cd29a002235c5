# SPDX-License-Identifier: MIT
"""The reference for what the high-level `llama_cpp.Llama` cannot be told: llama.cpp's own calls on a whole model, with
tensors overridden to the CPU as its --override-tensor does, or on several cards with its own split modes. Nothing of
ours takes part but the names of devices.
"""

import ctypes as c
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from native import Cards, ContextParams, FlashAttention, Pooling, Split
from native.devices import buffer_type_of, cpu_handle, handle_of
from tests.conformance.split_check import Logits, session_steps

Vectors = NDArray[np.float32]


class _Override(c.Structure):
    _fields_ = (("pattern", c.c_char_p), ("buffer_type", c.c_void_p))


def plain_session(path: Path, device: str | Cards, to_cpu: Sequence[str], params: ContextParams) -> Logits:
    """Logits of `run_session`'s steps, by llama.cpp alone.

    Args:
        device: of cards that share layers, the output counts as one more on the last of them.
        to_cpu: patterns of the tensors that are to lie in system memory.
        params: of them n_ctx_seq, n_seq_max, n_batch, n_ubatch, n_threads and whether there is flash attention count.
    """
    with _loaded(path, device, to_cpu) as model, _context(model, params) as context:
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        return np.concatenate([_step(context, n_vocab, *step) for step in session_steps(n_vocab)])


def plain_embeddings(path: Path, params: ContextParams, batches: Sequence[Sequence[Sequence[int]]]) -> list[Vectors]:
    """Embeddings by llama.cpp alone, as it loads a model by default: of each batch's inputs, which are decoded together
    in a cache that is empty, a vector, or one for each token where `params.pooling` is NONE.
    """
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert model
    assert params.pooling is not None
    ranks = params.pooling is Pooling.RANK
    n_embd = llama_cpp.llama_model_n_cls_out(model) if ranks else llama_cpp.llama_model_n_embd_out(model)
    vectors = []
    with _context(model, params) as context:
        for inputs in batches:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            seq_ids = [seq_id for seq_id, tokens in enumerate(inputs) for _ in tokens]
            positions = [position for tokens in inputs for position in range(len(tokens))]
            _decode(context, [*chain(*inputs)], positions, seq_ids)
            start = 0
            for seq_id, tokens in enumerate(inputs):
                if params.pooling is Pooling.NONE:
                    rows = [llama_cpp.llama_get_embeddings_ith(context, start + i) for i in range(len(tokens))]
                    vectors.append(np.stack([np.ctypeslib.as_array(row, (n_embd,)).copy() for row in rows]))
                else:
                    pooled = llama_cpp.llama_get_embeddings_seq(context, seq_id)
                    vectors.append(np.ctypeslib.as_array(pooled, (n_embd,)).copy())
                start += len(tokens)
    llama_cpp.llama_model_free(model)
    return vectors


@contextmanager
def _loaded(path: Path, device: str | Cards, to_cpu: Sequence[str]) -> Iterator[int]:
    cards = device if isinstance(device, Cards) else Cards((device,), Split.LAYER, (1,))
    handles = [handle for handle in map(handle_of, cards.names) if handle != cpu_handle()]
    devices = (c.c_void_p * (len(handles) + 1))(*handles)
    overrides = (_Override * (len(to_cpu) + 1))()
    for i, pattern in enumerate(to_cpu):
        overrides[i] = _Override(pattern.encode(), buffer_type_of(cpu_handle()))
    model_params = llama_cpp.llama_model_default_params()
    model_params.devices = c.cast(devices, c.c_void_p)
    model_params.n_gpu_layers = 999
    model_params.split_mode = cards.split.value
    model_params.tensor_split = (c.c_float * llama_cpp.llama_max_devices())(*cards.shares)
    model_params.tensor_buft_overrides = c.cast(overrides, c.c_void_p)
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    assert model
    yield model
    llama_cpp.llama_model_free(model)


@contextmanager
def _context(model: int, params: ContextParams) -> Iterator[int]:
    context_params = llama_cpp.llama_context_default_params()
    context_params.n_ctx = params.n_ctx_seq * params.n_seq_max
    context_params.n_seq_max = params.n_seq_max
    context_params.n_batch, context_params.n_ubatch = params.n_batch, params.n_ubatch
    context_params.n_threads = context_params.n_threads_batch = params.n_threads
    context_params.flash_attn_type = int(params.flash_attention is FlashAttention.ON)
    if params.pooling is not None:
        context_params.embeddings, context_params.pooling_type = True, params.pooling.value
    context = llama_cpp.llama_init_from_model(model, context_params)
    assert context
    yield context
    llama_cpp.llama_free(context)


def _step(
    context: int, n_vocab: int, tokens: Sequence[int], positions: Sequence[int], seq_ids: Sequence[int]
) -> Logits:
    _decode(context, tokens, positions, seq_ids)
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), n_vocab)).copy()


def _decode(context: int, tokens: Sequence[int], positions: Sequence[int], seq_ids: Sequence[int]) -> None:
    """One batch, all of whose rows are outputs."""
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, (token, position, seq_id) in enumerate(zip(tokens, positions, seq_ids, strict=True)):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq_id
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)
