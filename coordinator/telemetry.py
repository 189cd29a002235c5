# SPDX-License-Identifier: MIT
"""What workers tell of their cards, as a person reads it. For `caravan nodes` and `caravan doctor`."""

from __future__ import annotations

from coordinator.workers import CardFigures
from protos.sizes import size


def used(card: CardFigures) -> str:
    """Memory in use by everybody; empty where it is not told, like the others here."""
    return "" if card.used_bytes is None else size(card.used_bytes)


def busy(card: CardFigures) -> str:
    """How much of its time it computes."""
    return "" if card.utilisation is None else f"{card.utilisation:.0%}"


def temperature(card: CardFigures) -> str:
    """How hot it is."""
    return "" if card.temperature_c is None else f"{card.temperature_c:.0f} °C"


def power(card: CardFigures) -> str:
    """What it draws, and what it may."""
    if card.power_w is None:
        return ""
    limit = "" if card.power_limit_w is None else f" of {card.power_limit_w:.0f}"
    return f"{card.power_w:.0f}{limit} W"


def figures_text(card: CardFigures) -> list[str]:
    """All that is known, each for a sentence."""
    told = [
        used(card) and f"{used(card)} used",
        busy(card) and f"{busy(card)} busy",
        temperature(card),
        power(card),
    ]
    return [text for text in told if text]
