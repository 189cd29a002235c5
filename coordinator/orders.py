# SPDX-License-Identifier: MIT
"""What a worker is asked for: to load a stage, and with what around it, or to measure some. Values; `control` sends
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.weights.source import PartAddress
from native import ContextParams, LayerRange


@dataclass(frozen=True, slots=True)
class StageOrder:
    """What a worker is to load: a layer range of a model, with these context parameters.

    Attributes:
        path: Where to look for the model's file, too.
        n_cpu_moe: Of the first so many layers of the range that have experts, these lie in system memory.
    """

    path: str
    identity: str
    layers: LayerRange
    params: ContextParams
    n_cpu_moe: int = 0


@dataclass(frozen=True, slots=True)
class BenchmarkOrder:
    """What a worker is to measure.

    Attributes:
        runs: Layer ranges, each loaded alone.
        n_cpu_moe: Of each run, of how many of its first layers with experts these lie in system memory; empty: of none.
        batch_sizes: Tokens, ascending, each at most n_batch.
        limit_s: Of computing, per run: a size that would exceed it is left out, save the first.
    """

    path: str
    identity: str
    params: ContextParams
    runs: tuple[LayerRange, ...]
    batch_sizes: tuple[int, ...]
    limit_s: float
    n_cpu_moe: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OtherStage:
    """Where a stage sends to: its frames on, or, the last one, sampled tokens back."""

    worker: str
    address: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A worker that holds tensors of the model, and where it gives them."""

    worker: str
    address: str
    held_tensors: bytes


@dataclass(frozen=True, slots=True)
class StageSources:
    """Where a load may take weights from that are not on the worker's machine.

    Attributes:
        max_bytes_per_s: Of all of them together; 0: no limit.
        addresses: Where it may read the parts itself.
        hashes: By tensor, what is known already, with `addresses`.
    """

    peers: tuple[Peer, ...] = ()
    coordinator_gives: bool = False
    max_bytes_per_s: int = 0
    addresses: tuple[PartAddress, ...] = ()
    hashes: Mapping[int, bytes] = field(default_factory=dict)
