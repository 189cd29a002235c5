# SPDX-License-Identifier: MIT
"""Loads stages onto this worker's device, and knows what a stage would take and whether one that is loaded would come
out the same. Owns nothing that is loaded.

Loads on the loading thread; what stages would take is asked on gRPC's threads, too.
"""

import contextlib
import threading

from native import MemoryUse, ModelLayout
from worker.loading import Report, Reporter
from worker.memory import MemoryLimits
from worker.session import LoadOrder, StageSpec
from worker.stage import Basis, Stage, needed_memory
from worker.weights.scan import Mark
from worker.weights.supply import Supply

# A coordinator asks for some of each model; this is for those that come and go.
_MAX_REMEMBERED = 256


class StageLoader:
    """For one device, within one worker's limits."""

    def __init__(self, device: str, limits: MemoryLimits, supply: Supply) -> None:
        self._device = device
        self._limits = limits
        self._supply = supply
        self._lock = threading.Lock()
        self._needed: dict[StageSpec, MemoryUse] = {}

    def needed(self, spec: StageSpec, layout: ModelLayout) -> MemoryUse:
        """What the stage would take here: by a dry run when it is first asked for, and then known.

        Args:
            layout: of the file with the identity that `spec` names.

        Raises:
            BadRequestError, NativeError: as `needed_memory`.
        """
        with self._lock:
            use = self._needed.pop(spec, None) or needed_memory(spec, layout, self._device)
            self._needed[spec] = use
            if len(self._needed) > _MAX_REMEMBERED:
                del self._needed[next(iter(self._needed))]
        return use

    def load(self, order: LoadOrder, layout: ModelLayout, report: Reporter) -> Stage:
        """The stage, with weights from wherever the order says.

        Raises:
            CallError, NativeError: as Load; nothing is left loaded.
        """
        spec, basis = order.spec, self._basis(layout)
        copies = self._supply.copies(order, layout)
        if copies is None:
            stage = self.load_alone(spec, layout, report)
            stage.basis = basis
            return stage
        use = self.needed(spec, layout)
        with contextlib.ExitStack() as stack:
            stack.enter_context(copies)
            with self._supply.fetch(order, copies, report) as weights:
                stage = Stage.load(spec, layout, self._device, use, self._limits, report, weights)
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
        """The stage from the layout's file as it is, whatever that holds. Raises as `load`."""
        return Stage.load(spec, layout, self._device, self.needed(spec, layout), self._limits, report)

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
