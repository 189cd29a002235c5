# SPDX-License-Identifier: MIT
"""Loads stages onto this worker's device, and knows what a stage would take and whether one that is loaded would come
out the same. Owns nothing that is loaded.

Loads on the loading thread; what stages would take is asked on gRPC's threads, too.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from native import ModelLayout
from protos.slate import Activity, Slate
from worker.cards import Place
from worker.held import Held
from worker.loading import Report, Reporter
from worker.memory import MemoryLimits
from worker.placing import DryRuns, Placed, place_stage
from worker.session import LoadOrder, StageSpec
from worker.stage import Basis, Stage
from worker.weights.scan import Mark
from worker.weights.supply import Supply
from worker.whereabouts import Whereabouts


class StageLoader:
    """For one device or several cards, within one worker's limits."""

    def __init__(self, place: Place, limits: MemoryLimits, supply: Supply, slate: Slate, beside: Held) -> None:
        """`limits` as the user has them, for this and what is held `beside`; on `slate` is kept what is being done."""
        self._place = place
        self._limits = place.limits(limits)
        self._supply = supply
        self._slate = slate
        self._beside = beside
        self._dry_runs = DryRuns()

    def placed(self, spec: StageSpec, layout: ModelLayout, free_bytes: Sequence[int] | None = None) -> Placed:
        """Where the stage would go here, and what it would take: by dry runs when that is first asked for.

        Args:
            layout: of the file with the identity that `spec` names.
            free_bytes: on each of several cards; None: what is free there now.

        Raises:
            BadRequestError, NativeError: as `place_stage`.
        """
        free_bytes = self._place.free_bytes() if free_bytes is None else free_bytes
        return place_stage(spec, layout, self._place, free_bytes, self._dry_runs)

    def load(self, order: LoadOrder, layout: ModelLayout, report: Reporter) -> Stage:
        """The stage, with weights from wherever the order says.

        Raises:
            CallError, NativeError: as Load; nothing is left loaded.
        """
        layers = (order.spec.layers.start, order.spec.layers.end)
        with self._slate.noted(Activity.LOADING, order.session_id, order.epoch, layers):
            return self._load(order, layout, report)

    def _load(self, order: LoadOrder, layout: ModelLayout, report: Reporter) -> Stage:
        spec, basis = order.spec, self._basis(layout)
        copies = self._supply.copies(order, layout)
        if copies is None:
            stage = self._load_file(spec, layout, report)
            stage.basis = basis
            return stage
        placed = self.placed(spec, layout)
        with contextlib.ExitStack() as stack:
            stack.enter_context(copies)
            with self._supply.fetch(order, copies, report) as weights:
                stage = Stage.load(spec, layout, self._place, placed, self.limits(), report, weights)
            try:
                copies.check_unchanged()
            except BaseException:
                stage.close()
                raise
            # While a stage is loaded its weights stay in the store.
            stage.call_on_close(stack.pop_all().close)
        stage.basis = basis
        return stage

    def load_alone(self, spec: StageSpec, layout: ModelLayout, report: Report) -> Stage:
        """The stage from the layout's file as it is, whatever that holds, to be measured. Raises as `load`."""
        with contextlib.ExitStack() as stack:
            layers = (spec.layers.start, spec.layers.end)
            stack.enter_context(self._slate.noted(Activity.MEASURING, "", 0, layers))
            stage = self._load_file(spec, layout, report)
            stage.call_on_close(stack.pop_all().close)
        return stage

    def whereabouts(self, spec: StageSpec) -> Whereabouts:
        """For whoever computes frames with such a stage."""
        return Whereabouts(self._slate, spec.layers)

    def _load_file(self, spec: StageSpec, layout: ModelLayout, report: Report) -> Stage:
        return Stage.load(spec, layout, self._place, self.placed(spec, layout), self.limits(), report)

    def limits(self) -> MemoryLimits:
        """The worker's own, with what is held beside counted as taken."""
        return replace(self._limits, taken_bytes=self._beside.memory().device_bytes)

    def is_same(self, stage: Stage, spec: StageSpec, layout: ModelLayout) -> bool:
        """Whether loading would make the stage that is there already."""
        try:
            return stage.spec == spec and stage.layout.files == layout.files and stage.basis == self._basis(layout)
        except OSError:
            return False

    def _basis(self, layout: ModelLayout) -> Basis:
        """Raises OSError: a file is gone."""
        if self._supply.is_stored(layout):
            return Basis()
        return Basis(tuple(map(Mark.of, layout.files)), self._supply.stamps(layout.identity))
