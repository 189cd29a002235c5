# SPDX-License-Identifier: MIT
"""Who leaves when room is needed."""

from worker.weights.eviction import Tenant, choose, room_bytes

_OLD = Tenant("old", 100, 1.0, is_in_use=False)
_LOADED = Tenant("loaded", 1000, 0.0, is_in_use=True)
_NEW = Tenant("new", 50, 2.0, is_in_use=False)
_ALL = (_NEW, _LOADED, _OLD)


def test_the_least_recently_used_leave_and_no_more_than_needed() -> None:
    assert choose(_ALL, 0) == ()
    assert choose(_ALL, 1) == (_OLD,)
    assert choose(_ALL, 100) == (_OLD,)
    assert choose(_ALL, 101) == (_OLD, _NEW)


def test_what_is_in_use_stays_whatever_is_needed() -> None:
    assert choose(_ALL, 10_000) == (_OLD, _NEW)


def test_room_is_under_the_users_limit_and_on_the_disk() -> None:
    assert room_bytes(1000, 400, 5000, 10_000) == 600
    assert room_bytes(1000, 400, 500, 10_000) == 500
    assert room_bytes(100, 400, 5000, 10_000) == -300


def test_without_a_limit_others_keep_a_tenth_of_the_disk_and_20_gib_at_most() -> None:
    gib = 1 << 30
    assert room_bytes(None, 0, 30 * gib, 100 * gib) == 20 * gib
    assert room_bytes(None, 0, 500 * gib, 4000 * gib) == 480 * gib
