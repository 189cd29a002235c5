# SPDX-License-Identifier: MIT
"""Whom lines fail at, again and again."""

from coordinator.strikes import Strikes


def test_who_fails_twice_is_doubtful_until_a_line_worked() -> None:
    strikes = Strikes()
    strikes.note("one", 0.0, is_of_link=False)
    strikes.note("two", 1.0, is_of_link=False)
    assert strikes.doubtful == set()
    strikes.note("one", 2.0, is_of_link=False)
    assert strikes.doubtful == {"one"}
    strikes.note_worked(3.0)
    assert strikes.doubtful == set()


def test_a_link_that_works_a_little_and_fails_is_remembered_for_a_minute() -> None:
    strikes = Strikes()
    strikes.note("one", 0.0, is_of_link=True)
    strikes.note_worked(10.0)
    strikes.note("one", 10.0, is_of_link=True)
    assert strikes.doubtful == {"one"}
    strikes.note_worked(65.0)
    assert strikes.doubtful == set()


def test_of_links_that_fail_the_end_that_they_have_in_common_is_doubtful() -> None:
    strikes = Strikes()
    strikes.note("two", 0.0, is_of_link=True, neighbour="one")
    strikes.note("three", 1.0, is_of_link=True, neighbour="two")
    assert strikes.doubtful == {"two"}


def test_of_one_link_that_fails_again_the_further_end_is_doubtful_until_the_nearer_one_fails_without_it() -> None:
    strikes = Strikes()
    strikes.note("two", 0.0, is_of_link=True, neighbour="one")
    strikes.note("two", 1.0, is_of_link=True, neighbour="one")
    assert strikes.doubtful == {"two"}
    strikes.note("three", 2.0, is_of_link=True, neighbour="one")
    assert strikes.doubtful == {"one"}
