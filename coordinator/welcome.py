# SPDX-License-Identifier: MIT
"""Which workers are worth a thought while a line serves: those that are new, or back, and have not come and gone too
often. Pure; times are of whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.workers import FoundWorker

_FIRST_BAN_S = 5.0
_LONGEST_BAN_S = 1800.0
"""For which a worker is left alone after it was lost, or could not be taken in: twice as long each time."""

_FORGOTTEN_AFTER_S = 3600.0
"""Without another one, the times before count no more."""

_THOUGHT_HOLDS_S = 600.0
"""After that, what a worker that did not pay has free may be another amount."""


@dataclass(slots=True)
class _Record:
    """How often a worker disappointed, and until when it is left alone."""

    n_times: int = 0
    last_s: float = 0.0
    until_s: float = 0.0


class Welcome:
    """For one line."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._considered: dict[str, tuple[str, float]] = {}

    def note_considered(self, workers: Iterable[FoundWorker], now_s: float) -> None:
        """A plan was made over these: whoever is not in it need not be thought of again."""
        self._considered |= {worker.name: (worker.instance_id, now_s) for worker in workers}

    def forget_considered(self) -> None:
        """The line is another one: whatever was thought of it holds no more."""
        self._considered.clear()

    def note_failed(self, name: str, now_s: float) -> None:
        """It was lost, or could not be taken in."""
        record = self._records.setdefault(name, _Record())
        if now_s - record.last_s >= _FORGOTTEN_AFTER_S:
            record.n_times = 0
        record.until_s = now_s + min(_LONGEST_BAN_S, _FIRST_BAN_S * 2**record.n_times)
        record.n_times, record.last_s = record.n_times + 1, now_s
        self._considered.pop(name, None)

    def is_banned(self, name: str, now_s: float) -> bool:
        """Whether it is left alone now."""
        record = self._records.get(name)
        return record is not None and now_s < record.until_s

    def worth_a_thought(self, present: Iterable[FoundWorker], now_s: float) -> list[FoundWorker]:
        """Of all that are present and not in the line. Whoever is not among them is forgotten, and new when back."""
        there = {worker.name: worker for worker in present}
        self._considered = {name: thought for name, thought in self._considered.items() if name in there}
        return [
            worker
            for name, worker in there.items()
            if not self.is_banned(name, now_s) and not self._is_considered(worker, now_s)
        ]

    def _is_considered(self, worker: FoundWorker, now_s: float) -> bool:
        instance_id, at_s = self._considered.get(worker.name, ("", 0.0))
        return instance_id == worker.instance_id and now_s - at_s < _THOUGHT_HOLDS_S
