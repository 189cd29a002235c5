# SPDX-License-Identifier: MIT
"""The last steps to a line that serves, for its first time and for every time that it goes on: the streams to its ends,
what its session is bound by, how fast it is expected to be. Used by `opening` and `recovery`, on the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.confirming import ModelOrder
from coordinator.control import WorkerClient
from coordinator.line import Line, LineSpec
from coordinator.loading import LoadedLine
from coordinator.options import N_DRAFTS, NO_DRAFT, MeshOptions
from coordinator.pace import Pace
from coordinator.plan import Plan
from coordinator.sequence import EmbeddingLimits, Limits
from coordinator.statuses import Callee
from native import ContextParams, ModelLayout, Pooling, Vocabulary


@dataclass(frozen=True, slots=True)
class StandingLine:
    """A line that frames may be sent into; `clients` are of its workers, in line order."""

    plan: Plan
    session_id: str
    epoch: int
    clients: tuple[WorkerClient, ...]
    line: Line

    def limits(self, limits: Limits) -> Limits:
        """The session's, for this line: who makes them does not know its stages."""
        return limits.with_stages(len(self.plan.stages))

    @property
    def pace(self) -> Pace:
        """What frames are expected to take."""
        prediction = self.plan.prediction
        return Pace(len(self.plan.stages), None if prediction is None else prediction.frame_s)


async def connect(model: ModelOrder, loaded: LoadedLine, epoch: int) -> StandingLine:
    """Opens the streams of a line that is loaded.

    Raises:
        CaravanError: Whose fault it is if that fails.
    """
    line = await Line.open(line_spec(model, loaded, epoch), loaded.clients)
    return StandingLine(loaded.plan, loaded.session_id, epoch, loaded.clients, line)


def line_spec(model: ModelOrder, loaded: LoadedLine, epoch: int, first: int = 0) -> LineSpec:
    """What the streams of that epoch need to know; of a line without the stages before `first`."""
    return LineSpec(
        loaded.session_id,
        epoch,
        stages=tuple(Callee(stage.worker, stage.address, stage.layers) for stage in loaded.plan.stages[first:]),
        n_batch=model.params.n_batch,
        n_embd=model.layout.n_embd,
    )


def limits_of(options: MeshOptions, model: ModelOrder, vocabulary: Vocabulary) -> Limits:
    """What a session is bound by, over whatever line: of one stage until that is known."""
    params = model.params
    can_draft = options.draft != NO_DRAFT and vocabulary.can_forget_part
    return Limits(
        n_slots=params.n_seq_max,
        n_batch=params.n_batch,
        n_ctx=params.n_ctx_seq,
        n_stages=1,
        n_waiting=options.queue,
        n_ubatch=params.n_ubatch,
        can_forget_part=vocabulary.can_forget_part,
        n_drafts=N_DRAFTS if can_draft else 0,
        has_draft_model=options.draft_model is not None,
        shifts=options.context_shift,
        embedding=embedding_limits(model.layout, params),
    )


def embedding_limits(layout: ModelLayout, params: ContextParams) -> EmbeddingLimits | None:
    """How a model in such a context embeds, as llama.cpp can; None: it was not made for that.

    What it pools over, or looks back and forth in, it has to compute at once; only where the last token says it all, or
    each for itself, a long input can go in pieces. Source: server_slot::can_split in tools/server/server-context.cpp.
    """
    if params.pooling is None:
        return None
    n_frame = min(params.n_ubatch, params.n_batch)
    can_cut = layout.is_causal and params.pooling in (Pooling.LAST, Pooling.NONE, Pooling.RANK)
    n_input = params.n_ctx_seq if can_cut else min(n_frame, params.n_ctx_seq)
    return EmbeddingLimits(params.pooling, n_frame, n_input, is_stateless=layout.is_encoder)
