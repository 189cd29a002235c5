# SPDX-License-Identifier: MIT
"""Who gets the next slot: fair between clients, by priority, in order; nobody waits for ever, and nothing is left."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import ClientLimitError, OverloadedError
from coordinator.frames import EmbeddingRequest, Request
from coordinator.waiting import AGEING_TURNS, Clients, WaitingRoom
from native import SamplingParams


def _request(request_id: int, client: str = "", priority: int = 0) -> Request:
    return Request(request_id, (1,), 1, SamplingParams(), client=client, priority=priority)


def _room(*requests: Request, n_most: int = 100) -> WaitingRoom:
    room = WaitingRoom(n_most, Clients())
    for request in requests:
        room.enter(request, is_slot_free=False)
    return room


def _taken(room: WaitingRoom) -> list[Request | EmbeddingRequest]:
    """All that wait, in the order in which they get slots, of which there are enough."""
    return [room.take() for _ in range(len(room))]


def test_requests_of_one_client_come_in_the_order_they_were_submitted() -> None:
    assert [request.id for request in _taken(_room(*map(_request, range(20))))] == list(range(20))


def test_fifty_requests_of_one_client_keep_anothers_first_waiting_for_one_turn() -> None:
    room = _room(*(_request(number, "many") for number in range(50)))
    room.enter(_request(50, "one"), is_slot_free=False)
    served = []
    for _ in range(4):  # one slot: each request ends before the next begins
        served.append(room.take())
        room.leave(served[-1])
    assert [request.client for request in served] == ["many", "one", "many", "many"]


def test_a_free_slot_goes_to_the_client_that_has_fewest_running() -> None:
    room = _room(*(_request(number, "first") for number in range(6)))
    running = [room.take() for _ in range(3)]
    for number in range(6, 9):
        room.enter(_request(number, "second"), is_slot_free=False)
    assert [room.take().client for _ in range(3)] == ["second"] * 3
    room.leave(running[0])
    assert room.take().client == "first"


def test_a_lower_number_goes_first_whoever_has_fewer_running() -> None:
    room = _room(_request(1, "a", 5), _request(2, "b", 0), _request(3, "b", -1), _request(4, "b", 0))
    assert [request.id for request in _taken(room)] == [3, 2, 4, 1]


def test_a_low_priority_moves_though_higher_ones_keep_coming() -> None:
    room = _room(_request(0, "patient", 99), _request(1, "urgent"))
    n_slots = 0
    while (taken := room.take()).id:
        n_slots += 1
        room.enter(_request(1 + n_slots, "urgent"), is_slot_free=False)
        room.leave(taken)
    assert n_slots == AGEING_TURNS - 1


def test_a_client_has_no_more_requests_than_the_limit_in_all_lines_together() -> None:
    clients = Clients(limit=2)
    here, there = WaitingRoom(9, clients), WaitingRoom(9, clients)
    here.enter(_request(1, "greedy"), is_slot_free=True)
    assert here.take().id == 1
    there.enter(_request(1, "greedy"), is_slot_free=False)
    with pytest.raises(ClientLimitError, match="2 run or wait") as refused:
        here.enter(_request(2, "greedy"), is_slot_free=True)
    assert refused.value.retry_safe
    here.enter(_request(2, "modest"), is_slot_free=False)
    here.leave(_request(1, "greedy"))
    here.enter(_request(3, "greedy"), is_slot_free=False)


_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from("abc"), st.integers(-1, 1)),
        st.tuples(st.just("enter"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("take"), st.just(""), st.just(0)),
        st.tuples(st.just("leave"), st.just(""), st.integers(0, 9)),
    ),
    max_size=120,
)


@settings(max_examples=300)
@given(_EVENTS, st.integers(1, 12), st.sampled_from([None, 3]))
def test_whatever_happens_nobody_waits_beyond_the_bound_and_nothing_is_left(
    events: list[tuple[str, str, int]], n_most: int, limit: int | None
) -> None:
    clients = Clients(limit)
    room = WaitingRoom(n_most, clients)
    waiting: dict[int, Request] = {}
    running: dict[int, Request] = {}
    slots_until: dict[int, int] = {}  # how many slots more each may see go to others
    n_entered = 0

    def take() -> None:
        taken = room.take()
        assert waiting.pop(taken.id) is taken
        for request in waiting.values():
            assert (request.client, request.priority) != (taken.client, taken.priority) or request.id > taken.id
            slots_until[request.id] -= 1
            assert slots_until[request.id] >= 0
        running[taken.id] = taken

    for kind, client, number in events:
        if kind == "enter":
            n_entered += 1
            request = _request(n_entered, client, number)
            n_own = Counter(each.client for each in (*waiting.values(), *running.values()))[client]
            try:
                room.enter(request, is_slot_free=False)
            except OverloadedError:
                assert len(waiting) == n_most
            except ClientLimitError:
                assert n_own == limit
            else:
                assert limit is None or n_own < limit
                slots_until[n_entered] = AGEING_TURNS * (len(waiting) + 1)
                waiting[n_entered] = request
        elif kind == "take" and waiting:
            take()
        elif kind == "leave" and (there := [*waiting.values(), *running.values()]):
            request = there[number % len(there)]
            (waiting if request.id in waiting else running).pop(request.id)
            room.leave(request)
        assert len(room) == len(waiting)
    while waiting:
        take()
    for request in running.values():
        room.leave(request)
    assert (len(room), clients.n_clients, len(room._clients), len(room._classes)) == (0, 0, 0, 0)


@settings(max_examples=200)
@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_client_with_nothing_running_sees_each_other_one_go_first_once(
    others: list[str], n_slots: int, random: Random
) -> None:
    """But for the slots that go by age, one in eight."""
    room = _room(*(_request(number, client) for number, client in enumerate(others)))
    running = [room.take() for _ in range(min(n_slots, len(room)))]
    room.enter(_request(1000, "new"), is_slot_free=False)
    went_first: Counter[str] = Counter()
    while True:
        if running:
            room.leave(running.pop(random.randrange(len(running))))
        taken = room.take()
        if taken.client == "new":
            break
        running.append(taken)
        went_first[taken.client] += 1
        room.enter(_request(2000 + went_first.total(), taken.client), is_slot_free=False)
    assert sum(went_first.values()) - len(went_first) <= went_first.total() // AGEING_TURNS + 1
