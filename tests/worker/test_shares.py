# SPDX-License-Identifier: MIT
"""How layers are shared among cards: compared with every other way to share them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from worker.shares import fitting_bytes, share_layers

_BYTES = st.integers(0, 40)


def needs(shares: tuple[int, ...], layers: list[int], beside: list[int]) -> list[int]:
    """What each card has to hold."""
    ends = list(itertools.accumulate(shares))
    return [sum(layers[end - n : end]) + own if n else 0 for n, end, own in zip(shares, ends, beside, strict=True)]


def fullness(shares: tuple[int, ...], layers: list[int], cards: list[tuple[int, int]]) -> float:
    """Of the fullest card."""
    taken = needs(shares, layers, [beside for beside, _ in cards])
    return max(n_bytes / max(1, free) for n_bytes, (_, free) in zip(taken, cards, strict=True))


@given(
    layers=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    cards=st.lists(st.tuples(_BYTES, _BYTES), min_size=1, max_size=4),
)
def test_no_other_way_leaves_the_fullest_card_emptier(layers: list[int], cards: list[tuple[int, int]]) -> None:
    shares = share_layers(layers, [beside for beside, _ in cards], [free for _, free in cards])
    ways = [way for way in itertools.product(range(len(layers) + 1), repeat=len(cards)) if sum(way) == len(layers)]
    assert shares in ways
    assert fullness(shares, layers, cards) == min(fullness(way, layers, cards) for way in ways)


def test_alike_layers_go_to_cards_by_their_memory() -> None:
    assert share_layers([10] * 30, [0, 0, 0], [24 << 30, 6 << 30, 6 << 30]) == (20, 5, 5)


def test_a_card_too_small_for_one_layer_is_left_out() -> None:
    assert share_layers([10] * 4, [5, 5, 5], [100, 12, 100]) == (2, 0, 2)


@given(st.lists(st.tuples(_BYTES, _BYTES), min_size=1, max_size=4))
def test_there_is_less_than_a_stage_takes_exactly_if_a_card_has_too_little(cards: list[tuple[int, int]]) -> None:
    needed, free = [own for own, _ in cards], [there for _, there in cards]
    is_too_full = any(own > there for own, there in cards)
    assert (fitting_bytes(needed, free) < sum(needed)) == is_too_full


def test_the_room_for_a_stage_is_what_it_could_grow_to() -> None:
    assert fitting_bytes([20, 5, 0], [24, 6, 6]) == 30
    assert fitting_bytes([0, 0], [24, 6]) == 30
