# SPDX-License-Identifier: MIT
"""Ranges behave as the set of numbers in them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from worker.weights.ranges import Ranges

_END = 40
_RANGE = st.tuples(st.integers(0, _END), st.integers(0, _END)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(st.tuples(st.booleans(), _RANGE), max_size=12), _RANGE)
def test_ranges_are_a_set_of_numbers(steps: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]) -> None:
    ranges, numbers = Ranges(), set[int]()
    for is_added, (start, end) in steps:
        if is_added:
            ranges.add(start, end)
            numbers |= set(range(start, end))
        else:
            ranges.remove(start, end)
            numbers -= set(range(start, end))
    assert ranges.n_bytes == len(numbers)
    assert ranges.overlaps(*asked) == bool(numbers & set(range(*asked)))
    missing = ranges.missing(_END)
    assert {number for gap in missing for number in range(*gap)} == set(range(_END)) - numbers
    assert all(before[1] < after[0] for before, after in itertools.pairwise(missing))
    end = next(number for number in range(asked[0], _END + 2) if number not in numbers)
    assert ranges.end_from(asked[0]) == end
