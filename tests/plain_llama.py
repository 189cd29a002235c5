# SPDX-License-Identifier: MIT
"""The reference for what the high-level `llama_cpp.Llama` cannot be told: llama.cpp's own calls on a whole model, with
tensors overridden to the CPU as its --override-tensor does. Nothing of ours takes part but the name of a device.
"""

import ctypes as c
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np

from native import ContextParams
from native.devices import buffer_type_of, cpu_handle, handle_of
from tests.conformance.split_check import Logits, session_steps

_FLASH_ATTENTION_OFF = 0


class _Override(c.Structure):
    _fields_ = (("pattern", c.c_char_p), ("buffer_type", c.c_void_p))


def plain_session(path: Path, device: str, to_cpu: Sequence[str], params: ContextParams) -> Logits:
    """Logits of `run_session`'s steps, by llama.cpp alone; without flash attention.

    Args:
        to_cpu: patterns of the tensors that are to lie in system memory.
        params: of them n_ctx_seq, n_seq_max, n_batch, n_ubatch and n_threads count.
    """
    with _loaded(path, device, to_cpu) as model, _context(model, params) as context:
        n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        return np.concatenate([_step(context, n_vocab, *step) for step in session_steps(n_vocab)])


@contextmanager
def _loaded(path: Path, device: str, to_cpu: Sequence[str]) -> Iterator[int]:
    handle = handle_of(device)
    devices = (c.c_void_p * 2)(*([] if handle == cpu_handle() else [handle]))
    overrides = (_Override * (len(to_cpu) + 1))()
    for i, pattern in enumerate(to_cpu):
        overrides[i] = _Override(pattern.encode(), buffer_type_of(cpu_handle()))
    model_params = llama_cpp.llama_model_default_params()
    model_params.devices = c.cast(devices, c.c_void_p)
    model_params.n_gpu_layers = 999
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
    context_params.flash_attn_type = _FLASH_ATTENTION_OFF
    context = llama_cpp.llama_init_from_model(model, context_params)
    assert context
    yield context
    llama_cpp.llama_free(context)


def _step(
    context: int, n_vocab: int, tokens: Sequence[int], positions: Sequence[int], seq_ids: Sequence[int]
) -> Logits:
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, (token, position, seq_id) in enumerate(zip(tokens, positions, seq_ids, strict=True)):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq_id
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(tokens), n_vocab)).copy()
