# SPDX-License-Identifier: MIT
"""A draft model: a small model on the coordinator's machine that guesses what the line's model will say. Owns it, and
for each line a context on a thread of its own.

It is told how texts go on (`tell`, on the session's loop) and answers with offers, one guess at a time as they are
computed, on that loop too. What it is told while it computes is taken up with the next step: what its cache has in
common with the new text stays, the rest is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coordinator.offers import DraftContext, Offer
from coordinator.slots import n_common_tokens
from native import Batch, Context, ContextParams, MemoryUse, Model, NativeError, Vocabulary, default_threads

_LOG = logging.getLogger(__name__)

_BATCH = 256
"""Tokens of a step at most: of prompts, so many at a time, since what is told meanwhile waits."""

_CPU = "CPU"


class DraftModel:
    """The model, loaded once for all lines. Close it after its drafters."""

    def __init__(self, model: Model, n_threads: int) -> None:
        """Use `load`."""
        self._model = model
        self._n_threads = n_threads

    @classmethod
    def load(cls, path: Path, *, device: str | None = None, n_threads: int | None = None) -> DraftModel:
        """Loads all of it; blocks.

        Args:
            device: As `native.devices` names them; None: the CPU.
            n_threads: On the CPU; None: half of the cores, since workers of this machine want some, too.

        Raises:
            NativeError: It cannot be loaded.
        """
        return cls(Model.load(path, device=device or _CPU), n_threads or max(1, default_threads() // 2))

    @property
    def name(self) -> str:
        """Its file's, without the ending."""
        return self._model.layout.path.stem

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's own."""
        return self._model.vocabulary

    def drafter(
        self,
        params: ContextParams,
        n_vocab: int,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Offer | None], None],
    ) -> Drafter:
        """Begins to draft for a line; blocks for a moment.

        Args:
            params: Of the line: as many sequences, as long ones.
            n_vocab: Tokens that the line's model knows.
            deliver: Called on that loop with each offer; None: it has failed, and no more come.

        Raises:
            NativeError: There is no memory for its cache.
        """
        own = replace(params_of_draft(params), n_threads=self._n_threads)
        return Drafter(Context(self._model, own), min(n_vocab, self._model.n_vocab), loop, deliver)

    def close(self) -> None:
        """Frees the model."""
        self._model.close()


class Drafter:
    """Guesses for the slots of one line. `tell` and `close` are for its loop."""

    def __init__(
        self,
        context: Context,
        n_vocab: int,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Offer | None], None],
    ) -> None:
        """Use `DraftModel.drafter`."""
        self.memory: MemoryUse = context.memory()
        self._context = context
        self._n_vocab = n_vocab
        self._loop = loop
        self._deliver = deliver
        self._told: queue.SimpleQueue[Sequence[DraftContext] | None] = queue.SimpleQueue()
        self._drafts: dict[int, _Draft] = {}
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name="caravan-draft", daemon=True)
        self._thread.start()

    def tell(self, contexts: Sequence[DraftContext]) -> None:
        """How texts go on; never waits."""
        if contexts:
            self._told.put(contexts)

    async def close(self) -> None:
        """Ends the thread when its step is done, and frees the context."""
        self._told.put(None)
        await asyncio.to_thread(self._thread.join)
        self._context.close()

    def choose(self, position: int, logits: NDArray[np.float32]) -> int:
        """The guess at the token of that position of a text: the likeliest one. On its thread."""
        return int(logits[: self._n_vocab].argmax())

    # ---- on its thread ----

    def _run(self) -> None:
        try:
            while self._listen():
                self._step()
        except (NativeError, ValueError):
            _LOG.exception("the draft model failed: nothing is guessed any more")
            self._post(None)

    def _listen(self) -> bool:
        """Takes in what was told; waits for it where there is nothing to do. False: it is over."""
        while True:
            has_work = any(draft.n_to_compute for draft in self._drafts.values())
            try:
                contexts = self._told.get(block=not has_work)
            except queue.Empty:
                return True
            if contexts is None:
                return False
            for context in contexts:
                self._drafts.setdefault(context.slot, _Draft()).take(context, self._n_vocab)

    def _step(self) -> None:
        """Computes what drafts need, of all that need something, and guesses one token for those that have all."""
        started_s = time.monotonic()
        batch, parts = self._next_batch()
        self._context.step(batch)
        for part in parts:
            if part.row is not None:
                draft = part.draft
                draft.guesses.append(self.choose(len(draft.cached), self._context.logits(part.row)))
                # The first guess of a text takes as long as the text does, which says nothing of the next.
                took_s = time.monotonic() - started_s if part.n_tokens == 1 else 0.0
                self._post(Offer(draft.request_id, len(draft.text), len(draft.cached), (draft.guesses[-1],), took_s))

    def _next_batch(self) -> tuple[Batch, list[_Part]]:
        tokens: list[int] = []
        positions: list[int] = []
        seq_ids: list[int] = []
        parts = []
        n_room = self._context.params.n_batch
        # Those that need least first: guesses go on while a prompt is computed.
        for slot, draft in sorted(self._drafts.items(), key=lambda item: item[1].n_to_compute):
            n_now = min(draft.n_to_compute, n_room)
            if not n_now:
                continue
            if draft.n_void:
                self._forget(slot, draft)
                n_now = min(draft.n_to_compute, n_room)
            start = len(draft.cached)
            new = draft.whole(start, n_now)
            tokens += new
            positions += range(start, start + n_now)
            seq_ids += [slot] * n_now
            draft.cached += new
            parts.append(_Part(draft, n_now, len(tokens) - 1 if draft.is_computed else None))
            n_room -= n_now
        rows = [part.row for part in parts if part.row is not None]
        return Batch(*(np.array(values, np.int32) for values in (tokens, positions, seq_ids, rows))), parts

    def _forget(self, slot: int, draft: _Draft) -> None:
        """Takes out of the cache what is not part of the text any more."""
        if not self._context.kv_remove(slot, len(draft.cached), -1):
            self._context.kv_remove(slot, 0, -1)
            draft.cached.clear()
        draft.n_void = 0

    def _post(self, offer: Offer | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._deliver, offer)


def params_of_draft(params: ContextParams) -> ContextParams:
    """For the context of a model that drafts for one with these: as many sequences, as long ones."""
    n_batch = max(_BATCH, params.n_seq_max)
    return replace(params, n_batch=n_batch, n_ubatch=n_batch, kv_type_k="f16", kv_type_v="f16", pooling=None)


@dataclass(slots=True)
class _Draft:
    """The text of a slot, as far as it is known, and how it may go on.

    Attributes:
        guesses: After the text.
        cached: What the slot's cache holds of both, when `n_void` tokens behind that are forgotten.
        until: Position before which to guess.
    """

    request_id: int = -1
    text: list[int] = field(default_factory=list)
    guesses: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    n_void: int = 0
    until: int = 0

    def whole(self, start: int, n_tokens: int) -> list[int]:
        """Of text and guesses, so many from there on."""
        tokens = self.text[start : start + n_tokens]
        first = max(0, start - len(self.text))
        return tokens + self.guesses[first : first + n_tokens - len(tokens)]

    @property
    def n_to_compute(self) -> int:
        """Tokens until the next guess, if one is wanted."""
        n_whole = len(self.text) + len(self.guesses)
        return n_whole - len(self.cached) if n_whole < self.until else 0

    @property
    def is_computed(self) -> bool:
        return len(self.cached) == len(self.text) + len(self.guesses)

    def take(self, context: DraftContext, n_vocab: int) -> None:
        """The text goes on, or is another. One with tokens that the draft model does not know is left alone."""
        self.until = context.until
        if context.start > len(self.text) or max(context.tokens, default=0) >= n_vocab:
            self.until = 0
        if not self.until:
            return
        # What was guessed was offered; to another request it was not.
        before = self.text[context.start :] + self.guesses if context.request_id == self.request_id else []
        self.request_id = context.request_id
        self.text[context.start :] = context.tokens
        new = list(context.tokens)
        self.guesses = before[len(new) :] if before[: len(new)] == new else []
        if not self.guesses:
            # The last token is computed again where that is all: its logits are what the guess comes from.
            n_kept = min(n_common_tokens(self.cached, self.text), len(self.text) - 1)
            self.n_void += len(self.cached) - n_kept
            del self.cached[n_kept:]


@dataclass(frozen=True, slots=True)
class _Part:
    """What a step computes of a draft; `row`: in the batch, of the token that a guess comes after."""

    draft: _Draft
    n_tokens: int
    row: int | None
