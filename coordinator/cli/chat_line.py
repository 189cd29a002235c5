# SPDX-License-Identifier: MIT
"""A line of workers that answers in a chat, opened for it. On the main thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coordinator.cli.chat_partner import Ended
from coordinator.cli.chat_screen import Screen
from coordinator.cli.exits import UserError
from coordinator.cli.line import note_speed, opened, speed_text
from coordinator.cli.options import SamplingOptions
from coordinator.cli.progress import layers_text
from coordinator.errors import CaravanError, RequestError, WorkerError
from coordinator.frame_log import KEPT_S
from coordinator.generation import FinishReason, Generation
from coordinator.mesh import Mesh
from coordinator.plan import columns
from coordinator.waterfall import LEAST_WINDOW_S
from coordinator.weights.sources import model_name
from protos.sizes import size


class LinePartner:
    """Whatever mesh is open.

    Args:
        arguments: Those of `Mesh.open`, for this model and for those that come after it.

    Raises:
        CaravanError, UserError: It cannot be opened, or cannot chat.
    """

    def __init__(self, model: str, arguments: dict[str, Any], screen: Screen) -> None:
        self._arguments = arguments
        self._screen = screen
        self._model = model
        self._resources = contextlib.ExitStack()
        self._mesh = self._open(model)

    @property
    def name(self) -> str:
        """The model's."""
        return self._mesh.model_name

    def reply(self, messages: Sequence[Mapping[str, str]], sampling: SamplingOptions) -> LineReply:
        """An answer by the line."""
        return LineReply(self._mesh, messages, sampling)

    def change_model(self, model: str) -> None:
        """As a Partner does it: where it cannot be opened, the one before is opened again."""
        try:
            model_name(model)  # whether there is such a file, before anything is closed
        except CaravanError as error:
            raise UserError(error.message) from None
        self._resources.close()
        try:
            self._mesh = self._open(model)
        except (CaravanError, UserError) as error:
            self._screen.tell(f"{model} cannot be opened, so {self._model} is again")
            self._mesh = self._open(self._model)
            raise UserError(str(error)) from None
        self._model = model

    def about(self) -> str:
        """Which worker has which layers."""
        rows = []
        for plan in self._mesh.plans:
            rows += [
                (stage.worker, layers_text(stage.layers.start, stage.layers.end), stage.device,
                 size(stage.memory.total_bytes))
                for stage in plan.stages
            ]  # fmt: skip
        return "\n".join([self.name, *("  " + row for row in columns(rows))])

    def close(self) -> None:
        """Workers that were started for it end."""
        self._resources.close()

    def _open(self, model: str) -> Mesh:
        with contextlib.ExitStack() as resources:
            mesh = resources.enter_context(opened(model, on_event=self._screen.tell_event, **self._arguments))
            if mesh.vocabulary.chat_template is None:
                raise UserError(
                    f"{mesh.model_name} has no chat template, so it was not made for chats: `caravan run` has it go on "
                    "with a text"
                )
            self._resources = resources.pop_all()
        return mesh


class LineReply:
    """A generation of the mesh."""

    def __init__(self, mesh: Mesh, messages: Sequence[Mapping[str, str]], sampling: SamplingOptions) -> None:
        self._mesh = mesh
        self._messages = messages
        self._sampling = sampling
        self._generation: Generation | None = None
        self._is_cancelled = False
        self._started_s = 0.0

    def cancel(self) -> None:
        """As a Reply does it."""
        self._is_cancelled = True
        if self._generation is not None:
            self._generation.cancel()

    def __enter__(self) -> Iterator[str]:
        self._started_s = time.monotonic()
        with self._told():
            self._generation = self._mesh.chat(
                self._messages,
                sampling=self._sampling.params,
                max_tokens=self._sampling.max_tokens,
                stop=self._sampling.stop,
            )
        if self._is_cancelled:
            self._generation.cancel()
        return self._texts(self._generation)

    def __exit__(self, *_: object) -> None:
        if self._generation is not None:
            self._generation.cancel()

    def ended(self) -> Ended:
        """What it took, and what limited the speed of each line meanwhile."""
        mesh, generation = self._mesh, self._generation
        assert generation is not None
        usage = generation.usage
        window_s = min(max(time.monotonic() - self._started_s, LEAST_WINDOW_S), KEPT_S)
        note_speed(mesh, generation)
        guessed = f"{usage.guessed_tokens} tokens were guessed, and took no trip of their own"
        return Ended(
            was_stopped=generation.finish_reason is FinishReason.CANCELLED,
            is_cut=generation.finish_reason is FinishReason.LENGTH,
            speed=speed_text(usage),
            details=(
                f"{usage.cached_tokens} of the prompt tokens were in the cache",
                *([guessed] if usage.guessed_tokens else []),
                f"context: {usage.prompt_tokens + usage.completion_tokens} of {mesh.n_ctx} tokens",
                *(line.limit.sentence for line in mesh.activity(window_s) if line.figures.n_frames),
            ),
        )

    def _texts(self, generation: Generation) -> Iterator[str]:
        with self._told():
            for token in generation:
                yield token.text

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What concerns this answer alone, as a UserError."""
        try:
            yield
        except (RequestError, WorkerError) as error:
            if self._mesh.error is not None:
                raise
            raise UserError(error.message) from None
