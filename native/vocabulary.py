# SPDX-License-Identifier: MIT
"""Text to tokens and back, as the model's own vocabulary has it."""

from __future__ import annotations

import ctypes as c
import functools
import re
from pathlib import Path
from types import TracebackType

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from native.chat_template import ChatTemplate
from native.errors import TokenizeError
from native.layout import ModelLayout, layout_of
from native.library import TextStruct, wire
from native.loading import load_handle

# Bytes of the longest piece in all but a few vocabularies; longer ones are asked for a second time.
_PIECE_BYTES = 256

# What llama.cpp allows between a model and the one that drafts for it: sizes that differ by so much (padding), and any
# text of the first tokens, which are special ones. Source: common/speculative.cpp.
_MAX_DIFFERENCE = 128
_FIRST_COMPARED = 5

_TOKENIZE = c.cast(llama_cpp.llama_tokenize, c.c_void_p)

# What llama_tokenize made into a number by the wire: it threw. Source: native/src/tokenize.cpp.
_THREW = -(1 << 31)


class Vocabulary:
    """A vocabulary, of a loaded model (borrowed) or loaded alone (owned). Reading it is thread-safe."""

    def __init__(self, handle: int, *, model_handle: int, owns_model: bool = False) -> None:
        self.handle = handle
        self._model_handle = model_handle
        self._owns_model = owns_model
        # Without text its tokens are numbers alone, and llama.cpp aborts where it is asked for a token's bytes.
        self.has_text: bool = llama_cpp.llama_vocab_type(handle) != llama_cpp.LLAMA_VOCAB_TYPE_NONE
        # Of the model it belongs to: a state of recurrent layers holds all of a sequence or nothing.
        self.can_forget_part: bool = not (
            llama_cpp.llama_model_is_recurrent(model_handle) or llama_cpp.llama_model_is_hybrid(model_handle)
        )
        self.n_tokens: int = llama_cpp.llama_vocab_n_tokens(handle)
        self.bos = _token(llama_cpp.llama_vocab_bos(handle))
        self.eos = _token(llama_cpp.llama_vocab_eos(handle))
        self.add_bos: bool = llama_cpp.llama_vocab_get_add_bos(handle)

    @classmethod
    def load(cls, model: str | Path | ModelLayout) -> Vocabulary:
        """Loads the vocabulary alone, of a file or of one whose header was read; takes as long as reading the header.

        Raises:
            ModelFileError: as `native.layout.read_layout`.
            UnsupportedModelError: llama.cpp does not know the architecture.
            LoadFailedError: llama.cpp refused the vocabulary.
        """
        layout = layout_of(model)
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        handle = load_handle(layout, params)
        return cls(llama_cpp.llama_model_get_vocab(handle), model_handle=handle, owns_model=True)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Tokens of a text.

        Args:
            text: any; what UTF-8 cannot hold (lone surrogates) raises.
            add_special: put in front and behind what the model was trained with (BOS, EOS).
            parse_special: read special tokens written out in the text as such.

        Raises:
            TokenizeError: the text cannot be tokenised.
        """
        try:
            raw = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizeError(f"the text is not valid Unicode: {error.reason} at character {error.start}") from None
        self._check_vocabulary(add_special)
        asked = TextStruct(raw, len(raw), add_special, parse_special)
        room = len(raw) + 8
        for _ in range(2):
            tokens = (c.c_int32 * room)()
            n = wire().caravan_tokenize(_TOKENIZE, self.handle, asked, tokens, room)
            if n >= 0:
                return list(tokens[:n])
            if n == _THREW:
                raise TokenizeError("the model's vocabulary has no token for something in the text")
            room = -n
        raise TokenizeError(f"llama.cpp could not tokenise a text of {len(raw)} bytes")

    def query_and_document(self, query: str, document: str) -> list[int]:
        """The tokens of a query and a document as a reranker is asked about them: by its own template, or with the
        tokens between and around them that it was trained with.

        Raises:
            TokenizeError: as `tokenize`.

        Source: format_prompt_rerank in tools/server/server-common.cpp.
        """
        template = llama_cpp.llama_model_chat_template(self._model_handle, b"rerank")
        if template:
            texts = {"{query}": query, "{document}": document}
            text = re.sub(r"\{(query|document)\}", lambda place: texts[place[0]], template.decode("utf-8", "replace"))
            return self.tokenize(text, add_special=False, parse_special=True)
        parts = [self.tokenize(text, add_special=False, parse_special=False) for text in (query, document)]
        separator = _token(llama_cpp.llama_vocab_sep(self.handle))
        add_eos = llama_cpp.llama_vocab_get_add_eos(self.handle)
        end = separator if self.eos is None else self.eos
        begins = [self.bos] if self.add_bos else []
        ends = [end] if add_eos else []
        between = [separator] if llama_cpp.llama_vocab_get_add_sep(self.handle) else []
        tokens = [*begins, *parts[0], *ends, *between, *parts[1], *ends]
        known = [token for token in tokens if token is not None]
        if len(known) < len(tokens):
            raise TokenizeError("the model's vocabulary lacks a token that it wants around a text")
        return known

    def _check_vocabulary(self, add_special: bool) -> None:
        """llama.cpp asserts what this refuses, or does not come to an end."""
        if not self.has_text:
            raise TokenizeError("the model has no vocabulary: it knows tokens by their numbers, and no text")
        if self._loops:
            raise TokenizeError("the model's vocabulary has tokens that begin with a byte, and none of that byte alone")
        if not add_special:
            return
        is_bert = llama_cpp.llama_vocab_type(self.handle) == llama_cpp.LLAMA_VOCAB_TYPE_WPM
        add_eos = llama_cpp.llama_vocab_get_add_eos(self.handle)
        no_sep = is_bert and llama_cpp.llama_vocab_sep(self.handle) < 0
        if no_sep or ((self.add_bos or is_bert) and self.bos is None) or (add_eos and self.eos is None):
            raise TokenizeError("the model's vocabulary lacks a token that it wants around a text")

    @functools.cached_property
    def _loops(self) -> bool:
        """Whether llama.cpp would stay at one place of a text for ever, which it does where a longer token begins so
        and none fits. Source: llm_tokenizer_rwkv_session in src/llama-vocab.cpp."""
        if llama_cpp.llama_vocab_type(self.handle) != llama_cpp.LLAMA_VOCAB_TYPE_RWKV:
            return False
        texts = {self.piece(token, special=True) for token in range(self.n_tokens)}
        return not {text[:1] for text in texts} <= texts | {b""}

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The token's bytes, which may be part of a character. Special tokens have none unless asked for, a model
        without a vocabulary has none at all.

        Raises:
            ValueError: no such token.
        """
        if not 0 <= token < self.n_tokens:
            raise ValueError(f"token {token} is not in a vocabulary of {self.n_tokens}")
        if not self.has_text:
            return b""
        room = _PIECE_BYTES
        for _ in range(2):
            buffer = c.create_string_buffer(room)
            n = llama_cpp.llama_token_to_piece(self.handle, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n
        return b""

    def is_end_of_generation(self, token: int) -> bool:
        """Whether the model says with this token that it is done (EOS, end of turn and the like)."""
        return bool(llama_cpp.llama_vocab_is_eog(self.handle, token))

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """Those that say that the model has no more to say."""
        return frozenset(filter(self.is_end_of_generation, range(self.n_tokens)))

    @functools.cached_property
    def hidden_control_tokens(self) -> NDArray[np.int64]:
        """Control tokens, which are no text, but for those that end a generation."""
        is_control = llama_cpp.llama_vocab_is_control
        found = [t for t in range(self.n_tokens) if is_control(self.handle, t) and not self.is_end_of_generation(t)]
        return np.array(found, np.int64)

    @functools.cached_property
    def first_bytes(self) -> NDArray[np.int16]:
        """The first byte of each token's text; 0 where it has none."""
        return np.array([(self.piece(token) or b"\0")[0] for token in range(self.n_tokens)], np.int16)

    def difference(self, other: Vocabulary) -> str | None:
        """Why a model with that vocabulary cannot draft tokens for one with this, after "its vocabulary"; None: it can.
        As llama.cpp has it (common_speculative_are_compatible)."""
        kind, other_kind = llama_cpp.llama_vocab_type(self.handle), llama_cpp.llama_vocab_type(other.handle)
        if kind != other_kind:
            return f"is of another kind (llama.cpp's type {other_kind}, not {kind})"
        if _added(self) != _added(other):
            return "puts other tokens around a text"
        if abs(self.n_tokens - other.n_tokens) > _MAX_DIFFERENCE:
            return f"has {other.n_tokens} tokens, not {self.n_tokens}"
        for token in range(_FIRST_COMPARED, min(self.n_tokens, other.n_tokens)):
            own, others = (llama_cpp.llama_vocab_get_text(each.handle, token) for each in (self, other))
            if own != others:
                texts = (text.decode("utf-8", "replace") for text in (others, own))
                return "has token {} as {!r}, not {!r}".format(token, *texts)
        return None

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The model's own template; None if it has none.

        Raises:
            ChatTemplateError: it has one that does not parse.
        """
        source = llama_cpp.llama_model_chat_template(self._model_handle, None)
        if not source:
            return None
        return ChatTemplate(
            source.decode("utf-8", "replace"), bos=self._special_text(self.bos), eos=self._special_text(self.eos)
        )

    @property
    def added_texts(self) -> tuple[str, str]:
        """What is put before and behind a text with `add_special`, written out; empty where nothing is."""
        bos, eos = _added(self)
        return self._special_text(bos), self._special_text(eos)

    def _special_text(self, token: int | None) -> str:
        return "" if token is None else self.piece(token, special=True).decode("utf-8", "replace")

    def close(self) -> None:
        """Frees a vocabulary that was loaded alone; harmless otherwise and twice."""
        if self._owns_model and self._model_handle:
            llama_cpp.llama_model_free(self._model_handle)
            self._model_handle = 0

    def __enter__(self) -> Vocabulary:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def _added(vocabulary: Vocabulary) -> tuple[int | None, int | None]:
    """The tokens that are put before and behind a text."""
    add_eos = llama_cpp.llama_vocab_get_add_eos(vocabulary.handle)
    return vocabulary.bos if vocabulary.add_bos else None, vocabulary.eos if add_eos else None


def _token(token: int) -> int | None:
    return None if token < 0 else token
