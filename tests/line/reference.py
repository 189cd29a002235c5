# SPDX-License-Identifier: MIT
"""The reference: llama-cpp-python as it comes, alone, on the same file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import Llama, LogitsProcessorList
from numpy.typing import NDArray


class Reference:
    """`llama_cpp.Llama`, forgetful: nothing of a call is reused in the next."""

    def __init__(self, path: Path, *, n_ctx: int, n_batch: int, flash_attn: bool = False) -> None:
        # Its methods are not typed, or not usefully.
        self._llama: Any = Llama(
            str(path),
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_threads=1,
            n_threads_batch=1,
            verbose=False,
            flash_attn=flash_attn,
        )

    def text(self, prompt: str, **parameters: object) -> str:
        """What it prints."""
        self._llama.reset()
        return str(self._llama.create_completion(prompt, **parameters)["choices"][0]["text"])

    def answer(self, messages: list[dict[str, str]], **parameters: object) -> str:
        """What it answers in a chat."""
        self._llama.reset()
        answer = self._llama.create_chat_completion(messages, **parameters)
        return str(answer["choices"][0]["message"]["content"])

    def greedy_tokens(self, prompt: Sequence[int], n_tokens: int, *, forbidden: Sequence[int] = ()) -> list[int]:
        """At most so many tokens, without an end-of-generation token, and none of those that are forbidden."""

        def without(_tokens: NDArray[np.intc], logits: NDArray[np.float32]) -> NDArray[np.float32]:
            logits[list(forbidden)] = -np.inf
            return logits

        more: dict[str, object] = {"logits_processor": LogitsProcessorList([without])} if forbidden else {}
        return self._tokens(prompt, n_tokens, temp=0.0, **more)

    def sampled_tokens(self, prompt: Sequence[int], n_tokens: int, seed: int) -> list[int]:
        """The same at temperature 0.8 with its, and llama-server's, other defaults."""
        self._llama.set_seed(seed)
        return self._tokens(prompt, n_tokens, temp=0.8)

    def shifting_tokens(self, prompt: Sequence[int], n_tokens: int, n_keep: int, forbidden: Sequence[int]) -> list[int]:
        """So many, greedily; when its context is full, it is shifted as llama-server does that."""
        llama = self._llama
        llama.reset()
        llama.eval(list(prompt))
        memory = llama_cpp.llama_get_memory(llama.ctx)
        tokens: list[int] = []
        while True:
            logits = np.ctypeslib.as_array(llama._ctx.get_logits(), shape=(llama.n_vocab(),)).copy()
            logits[list(forbidden)] = -np.inf
            tokens.append(int(logits.argmax()))
            if len(tokens) == n_tokens:
                return tokens
            if llama.n_tokens + 1 >= llama.n_ctx():
                n_gone = (llama.n_tokens - n_keep) // 2
                assert llama_cpp.llama_memory_seq_rm(memory, 0, n_keep, n_keep + n_gone)
                llama_cpp.llama_memory_seq_add(memory, 0, n_keep + n_gone, llama.n_tokens, -n_gone)
                llama.n_tokens -= n_gone
            llama.eval(tokens[-1:])

    def logits_after(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """float32 (n_vocab,)."""
        self._llama.reset()
        self._llama.eval(list(tokens))
        shape = (self._llama.n_vocab(),)
        return np.array(np.ctypeslib.as_array(self._llama._ctx.get_logits(), shape=shape), dtype=np.float32)

    def close(self) -> None:
        """Frees the model."""
        self._llama.close()

    def _tokens(self, prompt: Sequence[int], n_tokens: int, **parameters: object) -> list[int]:
        self._llama.reset()
        tokens: list[int] = []
        ends = self._llama.token_eos()
        for token in self._llama.generate(list(prompt), **parameters):
            if len(tokens) == n_tokens or token == ends:
                break
            tokens.append(token)
        return tokens
