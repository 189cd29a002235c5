# SPDX-License-Identifier: MIT
"""Benchmarks: how long layer ranges of a model take on this worker's device. Called on gRPC's threads; what is not
remembered is measured on the loading thread, one stage after another.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from native import Device, ModelLayout, default_threads, versions
from worker.benchmark_store import BenchmarkStore
from worker.holder import Holder
from worker.loading import Report
from worker.session import StageSpec
from worker.stage import Stage
from worker.timing import Point, time_stage


@dataclass(frozen=True, slots=True)
class BenchmarkOrder:
    """Which stages to measure, each alone, with which batches (ascending), and how many seconds each may compute."""

    runs: tuple[StageSpec, ...]
    batch_sizes: tuple[int, ...]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """The points of each run, in the order asked for; `was_remembered`: nothing had to be measured."""

    runs: tuple[tuple[Point, ...], ...]
    was_remembered: bool


class Benchmarks:
    """Measures what a holder's device can do, and remembers it."""

    def __init__(self, holder: Holder, store: BenchmarkStore) -> None:
        self._holder = holder
        self._store = store

    def run(self, order: BenchmarkOrder, on_start: Callable[[Callable[[], None]], None]) -> Benchmarked:
        """Answers at once if all runs are remembered, else blocks while the others are loaded and computed.

        Args:
            on_start: is given what cancels the measuring, once it is under way.

        Raises:
            InUseError, LoadUnderWayError: a stage is in the way; nothing was done.
            CallError, NativeError: as Load; LoadCancelledError among them. What was measured before is remembered.
        """
        device, place = self._holder.device(), self._holder.place
        split = place.split.name if place.is_several else ""
        keys = [run_key(order, spec, self._holder.find_model(spec), device, split) for spec in order.runs]
        known = {key: points for key in keys if (points := self._store.find(key)) is not None}
        missing = {key: spec for key, spec in zip(keys, order.runs, strict=True) if key not in known}
        if missing:
            known |= zip(missing, self._measure(order, missing, on_start), strict=True)
        return Benchmarked(tuple(known[key] for key in keys), was_remembered=not missing)

    def _measure(
        self,
        order: BenchmarkOrder,
        missing: dict[str, StageSpec],
        on_start: Callable[[Callable[[], None]], None],
    ) -> Sequence[tuple[Point, ...]]:
        keys = {spec: key for key, spec in missing.items()}

        def measure(stage: Stage, report: Report) -> tuple[Point, ...]:
            points = time_stage(stage, order.batch_sizes, order.limit_s, report)
            self._store.keep(keys[stage.spec], points)
            return points

        measuring = self._holder.try_stages(list(missing.values()), measure)
        on_start(measuring.cancel)
        return measuring.wait()


def run_key(order: BenchmarkOrder, spec: StageSpec, layout: ModelLayout, device: Device, split: str = "") -> str:
    """Hex SHA-256 of all that a run's times depend on: where the file lies is not among it, nor what it is called.

    Layers count by the types and sizes of their tensors, so that those in the middle of a model have one key. `split`
    is how several cards share them, empty for one.
    """
    is_at_end = spec.layers.start == 0 or spec.layers.end == layout.n_layer
    tensors = sorted(
        (tensor.name.removeprefix(f"blk.{tensor.layer}."), tensor.type_name, tensor.n_bytes)
        for tensor in layout.tensors
        if (is_at_end if tensor.layer is None else tensor.layer in spec.layers)
    )
    facts = {
        "device": [device.name, device.description, *([split] if split else [])],
        "engine": asdict(versions()),
        "context": asdict(spec.params) | {"n_threads": spec.params.n_threads or default_threads()},
        "batches": [order.batch_sizes, order.limit_s, "rested"],
        "architecture": layout.architecture,
        "layers": [len(spec.layers), spec.layers.start == 0, spec.layers.end == layout.n_layer],
        "n_cpu_moe": spec.n_cpu_moe,
        "tensors": tensors,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
