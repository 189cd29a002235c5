# SPDX-License-Identifier: MIT
"""A limit on what is asked for per second holds over any stretch of time, but for one piece and a tenth of a second."""

from hypothesis import given
from hypothesis import strategies as st

from worker.weights.throttle import Throttle

_RATE = 1000


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 2)), min_size=1, max_size=50))
def test_no_more_is_taken_than_the_limit_allows(pieces: list[tuple[int, float]]) -> None:
    throttle, now, taken = Throttle(_RATE, 5.0), 5.0, []
    for n_bytes, pause_s in pieces:
        now += pause_s
        while (wait_s := throttle.wait_s(now)) > 0:
            now += wait_s
        throttle.take(n_bytes)
        taken.append((now, n_bytes))
    for first, (start, _) in enumerate(taken):
        for end, _ in taken[first:]:
            within = [n_bytes for at, n_bytes in taken if start <= at <= end]
            assert sum(within) <= _RATE * (end - start) + 0.1 * _RATE + max(within) + 1e-6


def test_without_a_limit_nothing_waits() -> None:
    throttle = Throttle(0, 0.0)
    for _ in range(3):
        throttle.take(1 << 40)
        assert throttle.wait_s(0.0) == 0.0
