# SPDX-License-Identifier: MIT
"""How many of a stage's layers each of several cards gets. Pure; called before a stage is tried on its cards."""

import math
from collections.abc import Sequence


def share_layers(layer_bytes: Sequence[int], beside_bytes: Sequence[int], free_bytes: Sequence[int]) -> tuple[int, ...]:
    """Layers in order over cards in order, so that the card that is fullest for its memory is as empty as can be.

    So each gets about as much as it has room for, and if there is a way in which all fit, they do.

    Args:
        layer_bytes: what each layer takes, wherever it lies.
        beside_bytes: what each card takes beside its layers, if it has any.
        free_bytes: what there is on each card.

    Returns:
        A number for each card, 0 for one that is better left out; together they are all layers.
    """
    n_layers = len(layer_bytes)
    until = [0]
    for n_bytes in layer_bytes:
        until.append(until[-1] + n_bytes)
    # Of the cards so far, holding the first `end` layers: how full the fullest is, and where the last one starts.
    fullest = [0.0] + [math.inf] * n_layers
    starts: list[list[int]] = []
    for beside, free in zip(beside_bytes, free_bytes, strict=True):
        before, fullest = fullest, [math.inf] * (n_layers + 1)
        starts.append([0] * (n_layers + 1))
        for end in range(n_layers + 1):
            for start in range(end + 1):
                own = _fullness(until[end] - until[start] + beside, free) if start < end else 0.0
                if max(before[start], own) < fullest[end]:
                    fullest[end], starts[-1][end] = max(before[start], own), start
    counts = []
    end = n_layers
    for start_of in reversed(starts):
        counts.append(end - start_of[end])
        end = start_of[end]
    return tuple(reversed(counts))


def _fullness(needed_bytes: int, free_bytes: int) -> float:
    """Finite even for a card without room, so that there is always a way that is least bad."""
    return needed_bytes / max(1, free_bytes)


def fitting_bytes(needed_bytes: Sequence[int], free_bytes: Sequence[int]) -> int:
    """Bytes there are for a stage shared like this: as if it grew on each card alike until the first one is full.

    Less than the stage takes exactly if one of its cards has too little.

    Args:
        needed_bytes: of the stage, on each card.
        free_bytes: what there is on each.
    """
    needed = sum(needed_bytes)
    rooms = [free * needed // own for own, free in zip(needed_bytes, free_bytes, strict=True) if own]
    return min(rooms, default=sum(free_bytes))
