# SPDX-License-Identifier: MIT
"""A row of the side-by-side: who is measured in it, rounds in turns, and whether its aims are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

CARAVAN = "caravan"
"""The name of our own figure in what a contender measures."""

Contender = Callable[[], Mapping[str, float]]
"""Measures once; figures by name."""


@dataclass(frozen=True)
class Setting:
    """What all rows are measured with.

    Attributes:
        work: Where the models are.
        programs: Where llama.cpp's own are.
        cores: One for each stage, and each RPC server.
        n_prompt: Tokens of a long prompt.
        n_decode: Tokens that are decoded.
    """

    work: Path
    programs: Path
    cores: tuple[int, ...]
    n_prompt: int
    n_decode: int


@dataclass(frozen=True)
class Aim:
    """What a row must show.

    Attributes:
        at_least: Of the ratio.
        at_most: Of the ratio.
        of: The figure that is held against the peers.
        beside: Names of the peers' figures: the best of them counts; none: the figure itself is held against the bound.
    """

    beside: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    of: str = CARAVAN

    def is_met(self, value: float) -> bool:
        """Whether the ratio (or figure) is within the bounds, with as many digits as are printed."""
        value = round(value, 2)
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        """In words."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


@dataclass(frozen=True)
class Row:
    """One thing that is measured.

    Attributes:
        name: For the command line.
        what: For the table, with the unit.
        contenders: Those that take turns, ours first; ready as long as the context lasts.
        is_count: It comes out the same every time: one round, not warmed up.
    """

    name: str
    what: str
    contenders: Callable[[Setting], AbstractContextManager[Sequence[Contender]]]
    aims: tuple[Aim, ...] = ()
    is_count: bool = False


Figures = Mapping[str, Sequence[float]]
"""By name, what each round measured."""


def measure(row: Row, setting: Setting, n_rounds: int, told: Callable[[str], None]) -> Figures:
    """Rounds in turns, so that a busy moment of the machine hits all; one round of each before, uncounted."""
    figures: dict[str, list[float]] = {}
    with row.contenders(setting) as contenders:
        for number in range(1 if row.is_count else 0, 2 if row.is_count else n_rounds + 1):
            said = []
            for contender in contenders:
                for name, value in contender().items():
                    if number:
                        figures.setdefault(name, []).append(value)
                    said.append(f"{name} {value:.3g}")
            told(f"{row.name}, {f'round {number}' if number else 'warm-up'}: {', '.join(said)}")
    return figures


def table_lines(row: Row, figures: Figures) -> list[str]:
    """The row in the table: a line for each aim, and for each figure that no aim asks for."""
    asked = {CARAVAN, *(name for aim in row.aims for name in (aim.of, *aim.beside))}
    lines = [_aim_cells(aim, figures) for aim in row.aims]
    lines += [[f"{name} {_spread(values)}", "", "", ""] for name, values in figures.items() if name not in asked]
    heads = [[row.what, _spread(figures[CARAVAN])], *[["", ""]] * len(lines)]
    return [f"| {' | '.join(head + cells)} |" for head, cells in zip(heads, lines or [[""] * 4], strict=False)]


def _aim_cells(aim: Aim, figures: Figures) -> list[str]:
    value = statistics.median(figures[aim.of])
    if not aim.beside:
        return [f"{aim.of} {_spread(figures[aim.of])}", f"{value:.2f}", aim.bound, _verdict(aim, value)]
    best = max(aim.beside, key=lambda name: statistics.median(figures[name]))
    ratio = value / statistics.median(figures[best])
    return [f"{best} {_spread(figures[best])}", f"{ratio:.2f}", aim.bound, _verdict(aim, ratio)]


def _verdict(aim: Aim, value: float) -> str:
    return "met" if aim.is_met(value) else "not met"


def _spread(values: Sequence[float]) -> str:
    """Median, with the extremes."""
    middle = _digits(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_digits(min(values))} to {_digits(max(values))})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
