# SPDX-License-Identifier: MIT
"""llama.cpp's sampler chain with llama-server's parameters, one sampler per sequence.

The order of the chain is llama-server's: logit bias, penalties, top-k, typical-p, top-p, min-p, temperature, draw.
A grammar is tried on the drawn token first and masks the whole vocabulary only if it refuses that one
(common/sampling.cpp does the same). The second draw then comes from a generator of its own, seeded by the seed and
the token's number, so that the main one always advances by one draw per token and a sampler can be rebuilt from the
tokens alone.
"""

from __future__ import annotations

import ctypes as c
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from native.context import Context
from native.errors import GrammarError, SamplingError
from native.grammar_gaps import GrammarGaps
from native.library import forget_errors, last_errors
from native.vocabulary import Vocabulary

MAX_TOP_LOGPROBS = 20

# A grammar from the network is parsed by llama.cpp; this bounds the work. Large JSON schemas stay far below.
MAX_GRAMMAR_BYTES = 1 << 20

# llama.cpp's parser calls itself for each parenthesis within another; a deep enough grammar would overflow its stack.
MAX_GRAMMAR_DEPTH = 256

# What a parenthesis is no parenthesis in, as llama.cpp's grammar parser reads it: literals, character classes, tokens,
# comments.
_GRAMMAR_TEXT = re.compile(r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|<[^>]*>|#[^\n]*', re.DOTALL)

# "{least,most}": with fewer at most than at least llama.cpp's parser makes rules until memory ends.
_GRAMMAR_REPETITION = re.compile(r"\{\s*([0-9]{1,20})[0-9]*\s*,\s*([0-9]{1,20})[0-9]*\s*\}")

# llama.cpp reserves memory for as many tokens as penalties look back on; longer than any context.
MAX_REPEAT_LAST_N = 1 << 20

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

# Spreads the seeds of second draws; Knuth's multiplicative constant, 2^32 divided by the golden ratio.
_SEED_STRIDE = 2654435769


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """llama-server's sampling parameters under its names, with its defaults.

    Attributes:
        visible_tokens: control tokens that are text of the answer, by their written names (llama-server's preserved
            tokens); a grammar admits no others.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = 64
    seed: int = 0
    grammar: str = ""
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = False
    n_top_logprobs: int = 0
    visible_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        numbers = (
            self.temperature, self.top_p, self.min_p, self.typical_p, self.repeat_penalty,
            self.frequency_penalty, self.presence_penalty,
        )  # fmt: skip
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("sampling parameters must be finite numbers")
        for name, value in (("top_p", self.top_p), ("min_p", self.min_p), ("typical_p", self.typical_p)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {value:g}")
        if self.repeat_penalty <= 0:
            raise ValueError(f"repeat_penalty must be above 0, not {self.repeat_penalty:g}")
        if not -1 <= self.repeat_last_n <= MAX_REPEAT_LAST_N:
            raise ValueError(f"repeat_last_n must lie between -1 and {MAX_REPEAT_LAST_N}, not {self.repeat_last_n}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in [0, 2^32), not {self.seed}")
        if not 0 <= self.n_top_logprobs <= MAX_TOP_LOGPROBS:
            raise ValueError(f"at most {MAX_TOP_LOGPROBS} top logprobs can be had, not {self.n_top_logprobs}")
        if len(self.grammar.encode("utf-8", "replace")) > MAX_GRAMMAR_BYTES:
            raise ValueError(f"the grammar is longer than {MAX_GRAMMAR_BYTES} bytes")
        if any(math.isnan(bias) for _, bias in self.logit_bias):
            raise ValueError("a logit bias must be a number")

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is always taken, of those that bias, penalties and grammar leave."""
        return self.temperature <= 0

    @property
    def has_penalties(self) -> bool:
        """Whether tokens that were there count less."""
        return self.repeat_last_n != 0 and (
            self.repeat_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0
        )

    @property
    def takes_likeliest(self) -> bool:
        """Whether the token of the largest logit (bias included) is taken, whatever else was set."""
        return self.is_greedy and not (self.grammar or self.has_penalties)


@dataclass(frozen=True, slots=True)
class Sampled:
    """A sampled token; log probabilities are of the softmax of the raw logits, the likeliest first in `top`."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


def check_params(vocabulary: Vocabulary, params: SamplingParams) -> None:
    """Makes a sampler and drops it, so that a bad one is refused before anything is sent.

    Raises:
        GrammarError: the grammar does not parse.
        ValueError: a logit bias for a token that does not exist, or one to be visible.
    """
    Sampler(vocabulary, params).close()


class Sampler:
    """The sampler of one sequence. Used by one thread at a time; close it to free llama.cpp's chain."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        params: SamplingParams,
        prompt_tokens: Sequence[int] = (),
        generated_tokens: Sequence[int] = (),
    ) -> None:
        """Builds the chain and brings it to where `generated_tokens` left off.

        Args:
            vocabulary: the model's.
            params: what to sample with.
            prompt_tokens: counted by the penalties, unseen by the grammar.
            generated_tokens: counted by penalties and grammar; the random generator advances one draw for each.

        Raises:
            GrammarError: the grammar does not parse.
            ValueError: a logit bias for a token that does not exist, or one to be visible.
        """
        self._params = params
        self._vocabulary = vocabulary
        self._n_generated = 0
        self._grammar: llama_cpp.llama_sampler_p | None = None
        self._gaps = GrammarGaps(vocabulary, params.visible_tokens, names_tokens=_names_tokens(params.grammar))
        self._draw: llama_cpp.llama_sampler_p | None = None
        self._chain: llama_cpp.llama_sampler_p | None = _chain()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        for token in prompt_tokens:
            llama_cpp.llama_sampler_accept(self._chain, token)
        for token in generated_tokens:
            self._replay(token)

    def sample(self, context: Context, row: int) -> Sampled:
        """Samples from an output row of the context's last step, and remembers the token.

        Raises:
            ValueError: the row has no logits.
            SamplingError: no token is left to choose from; the sampler is unchanged but for its random state.
        """
        raw = context.logits(row)
        logits = self._biased(raw)
        likeliest = int(logits.argmax())
        if not math.isfinite(logits[likeliest]):
            raise SamplingError("the logits leave no token to choose: they are not numbers, or all are forbidden")
        if self._params.takes_likeliest:
            token = likeliest
        elif self._grammar is None:
            token = self._apply(self._chain, _Candidates(logits))
        else:
            token = self._sample_with_grammar(logits)
        self._accept(token)
        if not self._params.logprobs:
            return Sampled(token, None, ())
        return _with_logprobs(token, raw, self._params.n_top_logprobs)

    def close(self) -> None:
        """Frees the chain; harmless twice."""
        for sampler in (self._chain, self._grammar):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _build(self) -> None:
        p, n_vocab = self._params, self._vocabulary.n_tokens
        self._check_tokens()
        if p.grammar:
            self._grammar = _grammar(self._vocabulary, p.grammar)
        add = self._add
        if p.has_penalties:
            last_n = p.repeat_last_n if p.repeat_last_n > 0 else MAX_REPEAT_LAST_N
            add(
                llama_cpp.llama_sampler_init_penalties(
                    n_vocab, last_n, p.repeat_penalty, p.frequency_penalty, p.presence_penalty
                )
            )
        if p.is_greedy:
            add(llama_cpp.llama_sampler_init_greedy())
            return
        add(llama_cpp.llama_sampler_init_top_k(p.top_k))
        add(llama_cpp.llama_sampler_init_typical(p.typical_p, 1))
        add(llama_cpp.llama_sampler_init_top_p(p.top_p, 1))
        add(llama_cpp.llama_sampler_init_min_p(p.min_p, 1))
        add(llama_cpp.llama_sampler_init_temp(p.temperature))
        self._draw = llama_cpp.llama_sampler_init_dist(p.seed)
        add(self._draw)

    def _add(self, sampler: llama_cpp.llama_sampler_p | None) -> None:
        if not sampler:
            raise SamplingError("llama.cpp could not make a sampler")
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def _check_tokens(self) -> None:
        n_vocab = self._vocabulary.n_tokens
        for token, _ in self._params.logit_bias:
            if not 0 <= token < n_vocab:
                raise ValueError(f"a logit bias names token {token}, the vocabulary has {n_vocab}")
        for token in self._params.visible_tokens:
            if not 0 <= token < n_vocab:
                raise ValueError(f"token {token} cannot be visible, the vocabulary has {n_vocab}")

    def _biased(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits with the request's bias added, which comes first in llama-server's chain, too."""
        if not self._params.logit_bias:
            return logits
        biased = logits.copy()
        for token, bias in self._params.logit_bias:
            biased[token] += bias
        return biased

    def _apply(self, sampler: llama_cpp.llama_sampler_p | None, candidates: _Candidates) -> int:
        llama_cpp.llama_sampler_apply(sampler, c.byref(candidates.struct))
        return candidates.selected()

    def _sample_with_grammar(self, logits: NDArray[np.float32]) -> int:
        logits = self._gaps.closed(logits)
        token = self._apply(self._chain, _Candidates(logits))
        if self._grammar_admits(token):
            return token
        candidates = _Candidates(logits)
        llama_cpp.llama_sampler_apply(self._grammar, c.byref(candidates.struct))
        if not candidates.any_possible():
            if self._params.logit_bias:
                raise SamplingError("the logit bias forbids every token that the grammar admits here")
            raise SamplingError("the grammar admits no token here")
        return self._apply(self._chain, candidates) if self._draw is None else self._second_draw(candidates)

    def _second_draw(self, candidates: _Candidates) -> int:
        n = llama_cpp.llama_sampler_chain_n(self._chain)
        for i in range(n - 1):
            sampler = llama_cpp.llama_sampler_chain_get(self._chain, i)
            llama_cpp.llama_sampler_apply(sampler, c.byref(candidates.struct))
        seed = (self._params.seed + _SEED_STRIDE * (self._n_generated + 1)) % 2**32
        draw = llama_cpp.llama_sampler_init_dist(seed)
        try:
            return self._apply(draw, candidates)
        finally:
            llama_cpp.llama_sampler_free(draw)

    def _grammar_admits(self, token: int) -> bool:
        single = _Candidates.of_token(token)
        llama_cpp.llama_sampler_apply(self._grammar, c.byref(single.struct))
        return single.any_possible()

    def _accept(self, token: int) -> None:
        llama_cpp.llama_sampler_accept(self._chain, token)
        if self._grammar is not None:
            llama_cpp.llama_sampler_accept(self._grammar, token)
            self._gaps.accept(token)
        self._n_generated += 1

    def _replay(self, token: int) -> None:
        if self._grammar is not None and not self._grammar_admits(token):
            raise GrammarError(f"token {token} of the history does not follow the grammar")
        if self._draw is not None:
            # One draw per token, whatever there is to choose from (llama_sampler_dist_apply).
            llama_cpp.llama_sampler_apply(self._draw, c.byref(_Candidates.of_token(token).struct))
        self._accept(token)


class _Candidates:
    """llama_token_data_array over a numpy array."""

    def __init__(self, logits: NDArray[np.float32]) -> None:
        array = np.empty(len(logits), _CANDIDATE)
        array["id"] = np.arange(len(logits), dtype=np.int32)
        array["logit"] = logits
        array["p"] = 0
        self._hold(array)

    @classmethod
    def of_token(cls, token: int) -> _Candidates:
        candidates = cls.__new__(cls)
        candidates._hold(np.array([(token, 1.0, 0.0)], _CANDIDATE))
        return candidates

    def _hold(self, array: NDArray[np.void]) -> None:
        self._array = array
        self.struct = llama_cpp.llama_token_data_array(
            data=array.ctypes.data_as(c.POINTER(llama_cpp.llama_token_data)),
            size=len(array),
            selected=-1,
            sorted=False,
        )

    def selected(self) -> int:
        if not 0 <= self.struct.selected < self.struct.size:
            raise SamplingError("the sampler chain left no token to choose")
        return int(self._array["id"][self.struct.selected])

    def any_possible(self) -> bool:
        return bool(np.any(self._array["logit"][: self.struct.size] != -np.inf))


def _chain() -> llama_cpp.llama_sampler_p:
    params = llama_cpp.llama_sampler_chain_default_params()
    params.no_perf = True
    chain: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_chain_init(params)
    return chain


def _grammar(vocabulary: Vocabulary, grammar: str) -> llama_cpp.llama_sampler_p:
    _check_shape(grammar)
    try:
        source = grammar.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar is not valid Unicode: {error.reason} at character {error.start}") from None
    forget_errors()
    sampler: llama_cpp.llama_sampler_p = llama_cpp.llama_sampler_init_grammar(vocabulary.handle, source, b"root")
    if not sampler:
        raise GrammarError(f"the grammar does not parse, or has no rule named root: {last_errors()}")
    return sampler


def _names_tokens(grammar: str) -> bool:
    """Whether the grammar has tokens in it, as `<[3]>` or `<|end|>`."""
    return any(match[0].startswith("<") for match in _GRAMMAR_TEXT.finditer(grammar))


def _check_shape(grammar: str) -> None:
    """Refuses what llama.cpp's parser does not survive."""
    structure = _GRAMMAR_TEXT.sub(" ", grammar)
    steps = [1 if c == "(" else -1 for c in structure if c in "()"]
    if max(itertools.accumulate(steps), default=0) > MAX_GRAMMAR_DEPTH:
        raise GrammarError(f"the grammar has parentheses nested more than {MAX_GRAMMAR_DEPTH} deep")
    for repetition in _GRAMMAR_REPETITION.finditer(structure):
        if int(repetition[1]) > int(repetition[2]):
            raise GrammarError(f"the grammar repeats at least {repetition[1]} and at most {repetition[2]} times")


def _with_logprobs(token: int, logits: NDArray[np.float32], n_top: int) -> Sampled:
    largest = float(logits.max())
    log_sum = largest + math.log(float(np.exp(logits - largest, dtype=np.float64).sum()))
    top = np.argpartition(-logits, n_top - 1)[:n_top] if 0 < n_top < len(logits) else np.arange(min(n_top, len(logits)))
    top = top[np.argsort(-logits[top], kind="stable")]
    return Sampled(
        token=token,
        logprob=float(logits[token]) - log_sum,
        top=tuple((int(t), float(logits[t]) - log_sum) for t in top),
    )
