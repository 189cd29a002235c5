# SPDX-License-Identifier: MIT
"""What both faces of a mesh share that is about its lines, and can be told without waiting. From any thread, but for
what says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.activity import LineActivity, activity_of
from coordinator.admission import AdmittedRequest, RequestOptions
from coordinator.embeddings import AdmittedEmbedding, EmbeddingOptions, Inputs, RankingOptions
from coordinator.errors import CaravanError
from coordinator.line_counts import LineCounts, counts_of
from coordinator.plan import Plan
from coordinator.recovery import Joined, Recovered
from coordinator.slot_state import SlotState
from coordinator.text_face import TextFace
from coordinator.timings import MeasuredTokens
from coordinator.waterfall import WINDOW_S
from coordinator.workers import LeftOutWorker
from native import Pooling

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LineFace(TextFace):
    """Part of `AsyncMesh` and `Mesh`."""

    @property
    def plan(self) -> Plan:
        """Which worker holds which layers, with the bytes they took; of the first line, if there are several.

        >>> {stage.worker: len(stage.layers) for stage in mesh.plan.stages}
        {'local-1': ..., 'local-2': ...}
        >>> print(mesh.plan.explain())
        demo: 8 layers, ...
        """
        return self.plans[0]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each line."""
        return tuple(line.plan for line in self._mesh.lines)

    @property
    def left_out(self) -> tuple[LeftOutWorker, ...]:
        """Workers that were found and cannot take part."""
        return self._mesh.left_out

    @property
    def model_name(self) -> str:
        """What to call the model: "demo", or its file's name without ending."""
        return self._mesh.model_name

    @property
    def model_identity(self) -> str:
        """What tells its files from those of all other models."""
        return self._mesh.model_identity

    @property
    def model_path(self) -> Path:
        """The model's first file; of a model that is elsewhere, where its header lies."""
        return self._mesh.model_path

    @property
    def n_ctx(self) -> int:
        """Tokens per sequence, prompt and answer together."""
        return self._mesh.params.n_ctx_seq

    @property
    def parallel(self) -> int:
        """Sequences at a time, of all lines; further requests wait."""
        return self._mesh.params.n_seq_max * len(self._mesh.lines)

    @property
    def pooling(self) -> Pooling | None:
        """What embeddings are made of; None: it makes none."""
        return self._mesh.params.pooling

    @property
    def error(self) -> CaravanError | None:
        """Why the mesh serves no more; None while it does."""
        return self._mesh.error

    @property
    def recovered(self) -> tuple[Recovered, ...]:
        """The times that a line broke and another carried on, the last thousand of each line."""
        return tuple(each for line in self._mesh.lines for each in line.recovery.recovered)

    @property
    def joined(self) -> tuple[Joined, ...]:
        """The times that a line took in workers that came back or were new, the last thousand of each line."""
        return tuple(each for line in self._mesh.lines for each in line.recovery.joined)

    @property
    def n_running(self) -> int:
        """Requests that have a slot."""
        return sum(line.session.n_running for line in self._mesh.lines)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return sum(line.session.n_waiting for line in self._mesh.lines)

    @property
    def n_paused(self) -> int:
        """Of those that have a slot, those that wait for their readers (`max_unread`)."""
        return sum(line.session.n_paused for line in self._mesh.lines)

    @property
    def measured(self) -> MeasuredTokens | None:
        """How long the tokens of streams that were alone in the first line took, there and on each stage, to be held
        against `plan.prediction`; None: there were none."""
        return self._mesh.lines[0].session.measured

    def activity(self, window_s: float = WINDOW_S) -> tuple[LineActivity, ...]:
        """What each line does, and what limits its speed, by the last so many seconds. From any thread; takes a few
        milliseconds (the more, the more frames there were), so a server asks it beside its loop.

        Raises:
            ValueError: The window is not above 0, or more than 180 seconds.
        """
        lines, now_s = self._mesh.lines, time.monotonic()
        return tuple(
            activity_of(line.session, line.plan, n_lines=len(lines), window_s=window_s, now_s=now_s) for line in lines
        )

    @property
    def counts(self) -> tuple[LineCounts, ...]:
        """What each line has come to since it was opened. On the mesh's own loop."""
        return tuple(counts_of(line.session, line.plan) for line in self._mesh.lines)

    @property
    def slots(self) -> tuple[tuple[SlotState, ...], ...]:
        """The slots of each line, and who has them. On the mesh's own loop."""
        return tuple(line.session.slots for line in self._mesh.lines)

    def admit_inputs(self, inputs: Inputs, **options: Unpack[EmbeddingOptions]) -> AdmittedEmbedding:
        """What `embed` would send, for `embed_admitted`; otherwise as `prompt_tokens`.

        Raises:
            NotMadeForError, InputTooLongError, InvalidRequestError, ClosedError: As `embed`.
        """
        tokens = map(self.prompt_tokens, (inputs,) if isinstance(inputs, str) else inputs)
        return self._mesh.admission.admit_embedding(tuple(tokens), options)

    def admit_documents(
        self, query: str, documents: Sequence[str], **options: Unpack[RankingOptions]
    ) -> AdmittedEmbedding:
        """What `rerank` would send, for `embed_admitted`; otherwise as `prompt_tokens`.

        Raises:
            NotMadeForError, InputTooLongError, InvalidRequestError, ClosedError: As `rerank`.
        """
        return self._mesh.admission.admit_ranking(query, documents, options)

    def _admit(self, tokens: tuple[int, ...], options: RequestOptions) -> AdmittedRequest:
        return self._mesh.admission.admit(tokens, options)
