# SPDX-License-Identifier: MIT
"""A loaded stage: the layers' weights and the context around them. Owns what llama.cpp allocated.

Loaded on the loading thread, stepped on the engine thread, never on two at once: the holder sees to that.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from native import Context, ContextParams, LoadCancelledError, MemoryUse, Model, ModelLayout, Weights, find_device
from worker import malloc
from worker.cards import Place, check_each_fits
from worker.frames import FrameLimits
from worker.memory import MemoryLimits, check_fits
from worker.placing import Placed
from worker.samplers import Samplers
from worker.session import LoadOrder, StageSpec
from worker.standing_back import standing_back
from worker.weights.scan import Mark


@dataclass(frozen=True, slots=True)
class Basis:
    """What a stage is made from: files as they are, and the coordinator's as they were offered; nothing of the store,
    whose tensors are what their model's identity says.
    """

    marks: tuple[Mark, ...] = ()
    stamps: tuple[str, ...] = ()


class Stage:
    """A layer range that can compute. Close it when its last engine has ended."""

    def __init__(self, spec: StageSpec, model: Model, context: Context, layout: ModelLayout, memory: MemoryUse) -> None:
        """`memory` is what it takes, by the dry run."""
        self.spec = spec
        self.layout = layout
        self.context = context
        self.basis = Basis()
        self.samplers = Samplers(model.vocabulary, spec.params.n_ctx_seq)
        self._model = model
        self._on_close: Callable[[], None] | None = None
        # Of cards that share tensors only a dry run tells exactly.
        self.memory = context.memory() if model.place.joined is None else memory

    @classmethod
    def load(
        cls,
        spec: StageSpec,
        layout: ModelLayout,
        place: Place,
        placed: Placed,
        limits: MemoryLimits,
        report: Callable[[float], bool],
        weights: Weights | None = None,
    ) -> "Stage":
        """Loads from `layout`'s file, if it fits; blocks for as long as that takes.

        Args:
            place: the worker's device, or its cards.
            placed: where there it goes, and what it takes.
            limits: how much of its memory may be taken, as `place.limits` has them.
            report: is told the fraction done, answers whether to go on.
            weights: where the tensors are, or will be; None: all in the file.

        Raises:
            DoesNotFitError: before anything was allocated.
            NativeError: LoadCancelledError among them; nothing is left loaded, as with all that `weights` raise.
        """
        check_each_fits(placed.memory, spec.layers, place, place.free_bytes())
        check_fits(placed.memory, spec, place.device(), find_device("CPU"), limits)
        # Where processors are few, weights come faster when those that are here are not loaded at their expense; and
        # loading has to wait for the last in any case.
        with contextlib.nullcontext() if weights is None else standing_back():
            model = Model.load(
                layout,
                layers=spec.layers,
                device=placed.device,
                on_progress=report,
                n_cpu_moe=spec.n_cpu_moe,
                weights=weights,
            )
        try:
            context = Context(model, spec.params)
            if not report(1.0):
                context.close()
                raise LoadCancelledError("the load was cancelled")
        except BaseException:
            model.close()
            raise
        malloc.trim()
        return cls(spec, model, context, layout, placed.memory)

    @property
    def n_vocab(self) -> int:
        """Tokens in the model's vocabulary."""
        return self._model.n_vocab

    def rest(self) -> None:
        """Nobody uses it for now: what is only for its epoch goes."""
        self.samplers.close()

    def renew(self, *, after_failure: bool) -> None:
        """Makes it as good as newly loaded, for a new epoch: no cells, no samplers.

        After a failed step llama.cpp's own state is not to be trusted, so that one gets a new context.

        Raises:
            NativeError: no new context could be had; the stage is good for nothing but closing.
        """
        self.samplers.close()
        if after_failure:
            self.context.close()
            self.context = Context(self._model, self.spec.params)
        else:
            self.context.kv_clear()

    def close(self) -> None:
        """Frees everything; safe to repeat."""
        self.samplers.close()
        self.context.close()
        self._model.close()
        malloc.trim()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """What is to be done when the stage is gone; once."""
        self._on_close = callback

    def limits(self, order: LoadOrder, logits_limit_bytes: int) -> FrameLimits:
        """What a frame of this order's epoch may hold here."""
        params: ContextParams = self.spec.params
        return FrameLimits(
            session_id=order.session_id,
            epoch=order.epoch,
            is_first=self._model.is_first,
            is_last=self._model.is_last,
            n_batch=params.n_batch,
            n_ctx_seq=params.n_ctx_seq,
            n_seq_max=params.n_seq_max,
            n_vocab=self.n_vocab,
            n_embd=self.layout.n_embd,
            kv_unified=params.kv_unified,
            logits_limit_bytes=logits_limit_bytes,
            n_embedded=0 if params.pooling is None else min(params.n_ubatch, params.n_batch),
            n_embd_out=self._model.n_embd_out,
            only_embeds=self.layout.is_encoder,
            is_draft=self.spec.is_draft,
        )
