# SPDX-License-Identifier: MIT
"""The bounded queue between two threads: order, bound, and both ways to end it."""

import threading
import time

from worker.handover import Handover


def test_items_come_in_order_and_end_after_finish() -> None:
    handover: Handover[int] = Handover(8)
    for item in range(5):
        assert handover.put(item)
    handover.finish()
    assert list(handover) == [0, 1, 2, 3, 4]


def test_the_giver_waits_while_it_is_full() -> None:
    handover: Handover[int] = Handover(2)
    given: list[int] = []

    def give() -> None:
        for item in range(5):
            handover.put(item)
            given.append(item)
        handover.finish()

    giver = threading.Thread(target=give)
    giver.start()
    deadline_s = time.monotonic() + 60
    while len(given) < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    time.sleep(0.1)  # in which it would give more, if it could
    assert given == [0, 1]
    assert list(handover) == [0, 1, 2, 3, 4]
    giver.join()


def test_close_wakes_a_waiting_giver_whose_item_is_dropped() -> None:
    handover: Handover[int] = Handover(1)
    handover.put(0)
    outcome: list[bool] = []
    giver = threading.Thread(target=lambda: outcome.append(handover.put(1)))
    giver.start()
    time.sleep(0.05)
    handover.close()
    giver.join(5)
    assert outcome == [False]
    assert not handover.put(2)


def test_close_wakes_a_waiting_taker() -> None:
    handover: Handover[int] = Handover(1)
    taken: list[list[int]] = []
    taker = threading.Thread(target=lambda: taken.append(list(handover)))
    taker.start()
    time.sleep(0.05)
    handover.close()
    handover.close()
    taker.join(5)
    assert taken == [[]]


def test_close_drops_what_waits() -> None:
    handover: Handover[int] = Handover(3)
    handover.put(0)
    handover.put(1)
    handover.close()
    assert list(handover) == []


def test_a_taker_that_gave_up_does_not_hold_the_giver() -> None:
    handover: Handover[int] = Handover(1)
    handover.put(0)
    assert next(iter(handover)) == 0
    assert handover.put(1)
    handover.close()
    assert not handover.put(2)
    assert not handover.put(3)
