# SPDX-License-Identifier: MIT
"""Caravan's coordinator: several computers as one machine for one language model.

    from coordinator import Mesh

    with Mesh.open("demo", local_workers=2) as mesh:
        for token in mesh.generate("Once upon a time", max_tokens=64):
            print(token.text, end="", flush=True)

This module is the public face: what is in `__all__` is meant to be used, all else may change. docs/python.md goes
through it. The examples in docstrings run as they are (tests/coordinator/test_examples.py), after `from coordinator
import *` and, where they have a `mesh` that they did not open, `mesh = Mesh.open("demo", discover=False,
local_workers=2, distribution=Distribution.ON, embeddings=True)`.
"""

from coordinator.activity import LineActivity
from coordinator.admission import RANDOM_SEED
from coordinator.bottleneck import Limit, LimitKind
from coordinator.discovery import Discovery, discover
from coordinator.embeddings import EmbeddingOptions, Embeddings, Ranking, RankingOptions
from coordinator.errors import (
    CancelledError,
    CaravanError,
    ClientLimitError,
    ClosedError,
    DeadlineError,
    DoesNotFitError,
    DuplicateNameError,
    EngineError,
    FrameRefusedError,
    IdentityError,
    InputTooLongError,
    InvalidRequestError,
    InventoryError,
    ModelError,
    ModelNotFoundError,
    NotMadeForError,
    NoWorkersError,
    OverloadedError,
    PlanError,
    PoisonError,
    PromptTooLongError,
    RequestError,
    SchemaError,
    SessionLostError,
    SlowReaderError,
    SourceError,
    UnloadedError,
    UnsupportedModelError,
    VersionMismatchError,
    WeightsError,
    WorkerBusyError,
    WorkerError,
    WorkerLostError,
    WorkerSilentError,
    WorkerStartError,
)
from coordinator.event_feed import AsyncLineEvents, LineEvents
from coordinator.events import LineChange, LineEvent, LoadEvent, LoadPhase
from coordinator.generation import (
    AsyncGeneration,
    FinishReason,
    Generation,
    PromptProgress,
    Token,
    TopLogprob,
    Usage,
)
from coordinator.json_schema import grammar_of
from coordinator.mesh import AsyncMesh, Mesh
from coordinator.options import MeshOptions
from coordinator.plan import Alternative, Plan, Stage
from coordinator.prediction import Prediction
from coordinator.prompts import Messages
from coordinator.recovery import Joined, Recovered
from coordinator.search import Objective
from coordinator.timings import MeasuredTokens
from coordinator.waterfall import LineFigures
from coordinator.wishes import Distribution
from coordinator.workers import (
    BuildVersions,
    FoundWorker,
    LeftOutWorker,
    LoadedStage,
    StageMemory,
    WorkerDevice,
)
from native import FlashAttention, LayerRange, Pooling, SamplingParams, Vocabulary

__all__ = [
    "RANDOM_SEED",
    "Alternative",
    "AsyncGeneration",
    "AsyncLineEvents",
    "AsyncMesh",
    "BuildVersions",
    "CancelledError",
    "CaravanError",
    "ClientLimitError",
    "ClosedError",
    "DeadlineError",
    "Discovery",
    "Distribution",
    "DoesNotFitError",
    "DuplicateNameError",
    "EmbeddingOptions",
    "Embeddings",
    "EngineError",
    "FinishReason",
    "FlashAttention",
    "FoundWorker",
    "FrameRefusedError",
    "Generation",
    "IdentityError",
    "InputTooLongError",
    "InvalidRequestError",
    "InventoryError",
    "Joined",
    "LayerRange",
    "LeftOutWorker",
    "Limit",
    "LimitKind",
    "LineActivity",
    "LineChange",
    "LineEvent",
    "LineEvents",
    "LineFigures",
    "LoadEvent",
    "LoadPhase",
    "LoadedStage",
    "MeasuredTokens",
    "Mesh",
    "MeshOptions",
    "Messages",
    "ModelError",
    "ModelNotFoundError",
    "NoWorkersError",
    "NotMadeForError",
    "Objective",
    "OverloadedError",
    "Plan",
    "PlanError",
    "PoisonError",
    "Pooling",
    "Prediction",
    "PromptProgress",
    "PromptTooLongError",
    "Ranking",
    "RankingOptions",
    "Recovered",
    "RequestError",
    "SamplingParams",
    "SchemaError",
    "SessionLostError",
    "SlowReaderError",
    "SourceError",
    "Stage",
    "StageMemory",
    "Token",
    "TopLogprob",
    "UnloadedError",
    "UnsupportedModelError",
    "Usage",
    "VersionMismatchError",
    "Vocabulary",
    "WeightsError",
    "WorkerBusyError",
    "WorkerDevice",
    "WorkerError",
    "WorkerLostError",
    "WorkerSilentError",
    "WorkerStartError",
    "discover",
    "grammar_of",
]
