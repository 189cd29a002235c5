# SPDX-License-Identifier: MIT
"""What is asked of a verification, and what comes of it. Values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.verification.comparison import Difference
from native import LayerRange


class Judgement(str, Enum):
    """Of a worker, or a line."""

    SAME = "same"
    """To the bit."""
    ROUNDS = "rounds otherwise"
    """As another kind of device does."""
    DISAGREES = "disagrees"
    """By more than that, or where no difference can be."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """How to compare.

    Attributes:
        texts: To compute; none: some of our own.
        n_single: Tokens of each that go one by one, as those that are generated do.
        device: That the reference computes on, as `native.devices` names them.
        tolerance: The largest mean Kullback-Leibler divergence, in nats, that is taken for rounding where devices
            differ in kind.
    """

    texts: Sequence[str] = ()
    n_single: int = 16
    device: str = "CPU"
    tolerance: float = 0.01


@dataclass(frozen=True, slots=True)
class CheckedWorker:
    """A stage of a line.

    Attributes:
        difference: Made by its computing instead of the reference's; None: nobody had to be looked for.
        is_alike: Its device is as the reference's, so that nothing may differ.
        n_missampled: Tokens that it sampled, greedily, which are not the likeliest by its own logits.
    """

    worker: str
    address: str
    host: str
    device: str
    layers: LayerRange
    is_alike: bool
    judgement: Judgement
    difference: Difference | None = None
    n_missampled: int = 0


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """A line, and its workers in line order. `difference`: of its logits from the reference's."""

    judgement: Judgement
    difference: Difference
    workers: tuple[CheckedWorker, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of it.

    Attributes:
        reference: The device that it computed on.
        n_parts: In so many parts the reference computed, one after the other; 1: the whole model at once.
        n_texts: That were computed.
        note: What else is to be known of the reference; empty: nothing.
    """

    model: str
    reference: str
    n_parts: int
    n_texts: int
    n_tokens: int
    note: str
    lines: tuple[CheckedLine, ...]

    @property
    def agrees(self) -> bool:
        """Whether no line disagrees."""
        return all(line.judgement is not Judgement.DISAGREES for line in self.lines)
