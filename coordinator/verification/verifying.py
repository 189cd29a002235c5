# SPDX-License-Identifier: MIT
"""Compares a mesh's lines with the reference and says who computes otherwise. On the event loop; the reference computes
on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence

from coordinator.errors import InvalidRequestError
from coordinator.events import OnProgress
from coordinator.loading import LoadedLine
from coordinator.opening import LoadedModel, loaded_model, native_errors
from coordinator.options import MeshOptions
from coordinator.verification.comparison import Difference, Logits, difference_of
from coordinator.verification.exercise import TEXTS, ExerciseStep, exercise_of
from coordinator.verification.judgement import (
    CheckedLine,
    CheckedWorker,
    Judgement,
    Verification,
    VerifyOptions,
)
from coordinator.verification.line_check import LineCheck
from coordinator.verification.reference import Computed, compute, free_bytes, parts, whole_bytes
from coordinator.weights.here import file_here
from coordinator.weights.sources import on_own_thread
from coordinator.workers import FoundWorker
from native import Device, FlashAttention, LayerRange, ModelLayout, find_device, read_layout
from protos.sizes import size

OnStep = Callable[[str, float], None]
"""Told what is computed, and how much of that is done, 0 to 1."""


async def verify(options: MeshOptions, asked: VerifyOptions, on_progress: OnProgress, on_step: OnStep) -> Verification:
    """Loads the model as a mesh would, and compares every line.

    Raises:
        CaravanError: As `open_mesh`; a text is empty; there is no such device; a line broke; or the reference cannot be
            computed here.
    """
    with native_errors():
        device = find_device(asked.device)
    async with loaded_model(options, on_progress) as model:
        layout = await _layout_here(model, options, on_progress)
        steps = _exercise(model, asked)
        reference = _Reference(layout, model, device, steps, on_step)
        await reference.compute()
        lines = []
        for number, line in enumerate(model.lines):
            name = "the line" if len(model.lines) == 1 else f"line {number + 1}"
            check = _Check(model, line, reference, asked.tolerance, on_step, name)
            lines.append(await check.run())
        return Verification(
            model=model.order.model.name,
            reference=f"{device.name} ({device.description})",
            n_parts=reference.n_parts,
            n_texts=sum(step.begins_text for step in steps),
            n_tokens=sum(len(step.tokens) for step in steps),
            note=reference.note,
            lines=tuple(lines),
        )


async def _layout_here(model: LoadedModel, options: MeshOptions, on_progress: OnProgress) -> ModelLayout:
    """The model's, of files with all their weights."""
    path = await file_here(model.source, options.max_bandwidth, on_progress)
    return await asyncio.to_thread(read_layout, path)


def _exercise(model: LoadedModel, asked: VerifyOptions) -> tuple[ExerciseStep, ...]:
    params = model.order.model.params
    texts = [model.admission.prompt_tokens(text) for text in asked.texts or TEXTS]
    if not all(texts):
        raise InvalidRequestError("there is an empty text, which makes no tokens: nothing of it can be compared")
    return exercise_of(
        texts,
        n_ctx=params.n_ctx_seq,
        n_batch=params.n_batch,
        n_vocab=model.vocabulary.n_tokens,
        n_single=asked.n_single,
    )


class _Reference:
    """What the reference has computed so far."""

    def __init__(
        self,
        layout: ModelLayout,
        model: LoadedModel,
        device: Device,
        steps: Sequence[ExerciseStep],
        on_step: OnStep,
    ) -> None:
        self._layout = layout
        self._cuts = sorted({stage.layers.start for line in model.lines for stage in line.plan.stages} - {0})
        self._params = model.order.model.params
        self._on_step = on_step
        self.device = device
        self.steps = steps
        self.n_parts = 1
        self.note = ""
        self.done = Computed([])

    async def compute(self) -> None:
        """The logits: with the whole model, or in parts, where also the hidden states between them come about."""
        needed, free = await asyncio.to_thread(self._sizes)
        if needed <= free:
            self.done = await self._compute([0, self._layout.n_layer], "one device alone")
            return
        self.note = (
            f"the whole model at once takes {size(needed)} on {self.device.name} here, of which {size(free)} can be "
            "had: the reference was computed one part of the layers after the other"
        )
        await self.compute_parts()

    async def compute_parts(self) -> None:
        """The hidden states in front of each stage; and the logits, where they are not there yet.

        Raises:
            DoesNotFitError: Not even one layer can be computed here.
        """
        if self.done.crossing or (self.done.logits and not self._cuts):
            return
        name, limit = self.device.name, free_bytes(self.device.name)
        bounds = await asyncio.to_thread(parts, self._layout, self._params, name, self._cuts, limit)
        done = await self._compute(bounds, "each part alone")
        if not self.done.logits:
            self.n_parts = len(bounds) - 1
        self.done = Computed(self.done.logits or done.logits, done.crossing)

    def _sizes(self) -> tuple[int, int]:
        return whole_bytes(self._layout, self._params, self.device.name), free_bytes(self.device.name)

    async def _compute(self, bounds: list[int], what: str) -> Computed:
        async with _called_off() as is_wanted:

            def on_part(layers: LayerRange, part: float) -> bool:
                done = (layers.start + part * len(layers)) / self._layout.n_layer
                self._on_step(f"computing it on {self.device.name} here, {what}", done)
                return is_wanted()

            return await on_own_thread(
                lambda: compute(self._layout, self._params, self.device.name, bounds, self.steps, on_part),
                "caravan-reference",
            )


@contextlib.asynccontextmanager
async def _called_off() -> AsyncIterator[Callable[[], bool]]:
    """What a thread asks whether it is to go on: no more when the context is left."""
    is_over = False
    try:
        yield lambda: not is_over
    finally:
        is_over = True


class _Check:
    """A line held against the reference."""

    def __init__(
        self,
        model: LoadedModel,
        line: LoadedLine,
        reference: _Reference,
        tolerance: float,
        on_step: OnStep,
        name: str,
    ) -> None:
        self._line = line
        self._stages = line.plan.stages
        self._check = LineCheck(model.order, line)
        self._found = {worker.name: worker for worker in model.order.workers}
        self._flash_attention = model.order.model.params.flash_attention
        self._reference = reference
        self._tolerance = tolerance
        self._on_step = on_step
        self._name = name

    async def run(self) -> CheckedLine:
        """All of the line; its workers one by one, where that is not the same to the bit."""
        steps, expected = self._reference.steps, self._reference.done.logits
        on_step = functools.partial(self._on_step, f"computing it on {self._name}")
        outputs = await self._check.run(0, steps, None, on_step)
        whole = difference_of(expected, outputs.logits)
        differences: list[Difference | None] = [None] * len(self._stages)
        if not whole.is_none:
            await self._reference.compute_parts()
            differences = [*await self._differences()]
        n_missampled = [0] * (len(self._stages) - 1) + [outputs.n_missampled]
        workers = tuple(map(self._judged, range(len(self._stages)), differences, n_missampled))
        worst = _worst(workers)
        if worst is Judgement.SAME and not whole.is_none:
            worst = Judgement.DISAGREES  # the first time, and not again
        return CheckedLine(worst, whole, workers)

    async def _differences(self) -> list[Difference]:
        """What each stage makes, by what comes of the exercise when the stages before it are the reference's, and when
        it is, too. All of it is computed anew: what went wrong once alone is nobody's of those who come after."""
        steps, done = self._reference.steps, self._reference.done
        came: list[list[Logits]] = []
        for first, stage in enumerate(self._stages):
            on_step = functools.partial(self._on_step, f"computing it on {self._name} from {stage.worker} on")
            crossing = done.crossing[stage.layers.start] if first else None
            outputs = await self._check.run(first, steps, crossing, on_step)
            came.append(outputs.logits)
        return [difference_of(right, got) for got, right in zip(came, [*came[1:], done.logits], strict=True)]

    def _judged(self, number: int, difference: Difference | None, n_missampled: int) -> CheckedWorker:
        stage = self._stages[number]
        is_alike = self._is_alike(self._found[stage.worker], stage.n_cpu_moe)
        judgement = Judgement.SAME
        if difference is not None and not difference.is_none:
            is_rounding = not is_alike and difference.mean_kl <= self._tolerance
            judgement = Judgement.ROUNDS if is_rounding else Judgement.DISAGREES
        if n_missampled:
            judgement = Judgement.DISAGREES
        return CheckedWorker(
            worker=stage.worker,
            address=stage.address,
            host=stage.host,
            device=stage.device,
            layers=stage.layers,
            is_alike=is_alike,
            judgement=judgement,
            difference=difference,
            n_missampled=n_missampled,
        )

    def _is_alike(self, worker: FoundWorker, n_cpu_moe: int) -> bool:
        """Whether it computes as the reference does: on the same kind of device, and nothing in another order."""
        own, theirs = self._reference.device, worker.device
        return (
            (own.backend, own.description) == (theirs.backend, theirs.description)
            and self._flash_attention is FlashAttention.OFF  # which shares out a sum by the number of threads
            and (theirs.is_cpu or not n_cpu_moe)
        )


def _worst(workers: Sequence[CheckedWorker]) -> Judgement:
    judgements = {worker.judgement for worker in workers}
    return next(each for each in reversed(Judgement) if each in judgements)
