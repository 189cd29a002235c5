# SPDX-License-Identifier: MIT
"""The schedule: whatever happens to sources and in whatever order, every byte is asked for, of the best who can give
it, and of nobody who gave it wrong.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.weights.schedule import Schedule
from worker.weights.sources import COORDINATOR, INTERNET, Origin, Source
from worker.weights.steps import Ask, AskAddress, AskHash, AskPiece, Open, Wanted

_PIECE_BYTES = 4


def _peer(name: str) -> Source:
    return Source(Origin.PEER, name)


def _schedule(*wanted: Wanted, coordinator_gives: bool = True, has_internet: bool = False) -> Schedule:
    schedule = Schedule(coordinator_gives=coordinator_gives, piece_bytes=_PIECE_BYTES, has_internet=has_internet)
    for each in wanted:
        schedule.want(each)
    return schedule


def _next_piece(schedule: Schedule, connection: int) -> Ask | None:
    """What it is to ask for, all tensors it opens being missing as a whole."""
    while isinstance(step := schedule.next(connection), Open):
        schedule.opened(step.tensor, [(0, 1000)])
    return step


def test_a_connection_stays_with_its_tensor_and_another_begins_the_next() -> None:
    known = [Wanted(number, 1000, is_hash_known=True) for number in (7, 3)]
    schedule = _schedule(*known)
    for connection in (0, 1, 2):
        schedule.connect(connection, COORDINATOR)
    asked = [_next_piece(schedule, connection) for connection in (0, 1, 0, 1)]
    assert asked == [AskPiece(7, 0, 4), AskPiece(3, 0, 4), AskPiece(7, 4, 4), AskPiece(3, 4, 4)]
    # With no tensor left to begin the third helps one of them.
    assert _next_piece(schedule, 2) == AskPiece(7, 8, 4)


def test_a_tensor_that_is_waited_for_comes_before_others_that_nobody_began() -> None:
    schedule = _schedule(*[Wanted(number, 1000, is_hash_known=True) for number in range(9)])
    schedule.connect(0, COORDINATOR)
    schedule.demand(5)
    assert _next_piece(schedule, 0) == AskPiece(5, 0, 4)


def test_peers_are_asked_for_what_they_hold_and_the_coordinator_for_the_rest() -> None:
    schedule = _schedule(
        Wanted(0, 1000, peers=("a", "b"), is_hash_known=True),
        Wanted(1, 1000, peers=("a",), is_hash_known=True),
        Wanted(2, 1000, is_hash_known=True),
    )
    schedule.connect(0, COORDINATOR)
    schedule.connect(1, _peer("a"))
    schedule.connect(2, _peer("b"))
    # What only one has comes first, so that the other is not idle later.
    assert _next_piece(schedule, 1) == AskPiece(1, 0, 4)
    assert _next_piece(schedule, 2) == AskPiece(0, 0, 4)
    assert _next_piece(schedule, 0) == AskPiece(2, 0, 4)
    schedule.drop(_peer("a"), "worker a hung up")
    schedule.gone(1)
    assert _next_piece(schedule, 2) == AskPiece(0, 4, 4)
    assert not schedule.lost()


def test_what_came_of_a_piece_before_its_connection_ended_is_not_asked_for_again() -> None:
    schedule = _schedule(Wanted(0, 1000, is_hash_known=True))
    schedule.connect(0, COORDINATOR)
    assert [_next_piece(schedule, 0) for _ in range(2)] == [AskPiece(0, 0, 4), AskPiece(0, 4, 4)]
    assert not schedule.came(0, 3)
    schedule.gone(0)
    schedule.connect(1, COORDINATOR)
    assert [_next_piece(schedule, 1) for _ in range(3)] == [AskPiece(0, 3, 1), AskPiece(0, 4, 4), AskPiece(0, 8, 4)]


def test_hashes_are_asked_of_the_coordinator_on_a_connection_for_them_alone() -> None:
    schedule = _schedule(Wanted(0, 4, peers=("a",)), Wanted(1, 4))
    for connection in (0, 1):
        schedule.connect(connection, COORDINATOR)
    schedule.connect(2, _peer("a"))
    assert schedule.needs_coordinator()
    assert schedule.next(2) == Open(0)
    # The peer's tensor needs it in any case; the coordinator's own is hashed after it has been given.
    assert schedule.next(0) == AskHash(0, 4)
    assert schedule.next(0) is None
    assert schedule.next(1) == Open(1)
    schedule.opened(1, [(0, 4)])
    assert schedule.next(1) == AskPiece(1, 0, 4)
    assert not schedule.came(1, 4)
    assert schedule.next(0) == AskHash(1, 4)
    assert not schedule.hash_came(0)
    assert schedule.hash_came(0)


def test_a_tensor_that_nobody_can_give_is_lost_with_the_reasons() -> None:
    schedule = _schedule(Wanted(0, 4, peers=("a",), is_hash_known=True))
    schedule.connect(0, _peer("a"))
    assert _next_piece(schedule, 0) == AskPiece(0, 0, 4)
    schedule.refused(0, "worker a: the tensor is not here")
    assert schedule.lost() is None
    schedule.drop(COORDINATOR, "the coordinator hung up")
    assert schedule.lost() == (0, ["worker a: the tensor is not here", "the coordinator hung up"])


def test_without_anybody_to_tell_its_hash_a_tensor_is_lost_wherever_it_is() -> None:
    schedule = _schedule(Wanted(0, 4, copies=(Origin.FILE,), peers=("a",)), coordinator_gives=False)
    assert schedule.lost() == (0, ["the coordinator gives no weights"])


@dataclass
class _World:
    """Sources that give what they are asked for, or not, as a random generator has it."""

    random: random.Random
    schedule: Schedule
    wanted: list[Wanted]
    sources: dict[int, Source]
    written: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    asked: dict[int, list[Ask]] = field(default_factory=lambda: defaultdict(list))
    liars: set[tuple[Source, int]] = field(default_factory=set)
    caught: set[tuple[Source, int]] = field(default_factory=set)
    given: dict[int, set[Source]] = field(default_factory=lambda: defaultdict(set))
    here: set[int] = field(default_factory=set)
    hashed: set[int] = field(default_factory=set)

    def step(self, connection: int) -> bool:
        """Whether anything happened."""
        if self.asked[connection] and self.random.random() < 0.6:
            self._answer(connection)
            return True
        step = self.schedule.next(connection)
        if isinstance(step, Open):
            missing = [(0, self.wanted[step.tensor].n_bytes)]
            self._finish_if(self.schedule.opened(step.tensor, missing), step.tensor)
        elif step is not None:
            self._check_asked(self.sources[connection], step)
            self.asked[connection].append(step)
        elif self.asked[connection]:
            self._answer(connection)
        else:
            return False
        return True

    def _check_asked(self, source: Source, step: Ask) -> None:
        wanted = self.wanted[step.tensor]
        assert (source, step.tensor) not in self.caught, "it gave that one wrong before"
        if isinstance(step, AskHash | AskAddress):
            assert source == COORDINATOR
            return
        assert source in (COORDINATOR, INTERNET) or source.worker in wanted.peers
        if source == COORDINATOR or (source == INTERNET and step.tensor in self.hashed):
            alive = {each for each in self.sources.values() if each.worker in wanted.peers}
            assert not [each for each in alive if (each, step.tensor) not in self.caught], "a peer could give it"
        new = set(range(step.offset, step.offset + step.n_bytes))
        under_way = [a for asked in self.asked.values() for a in asked if isinstance(a, AskPiece)]
        assert not any(a.tensor == step.tensor and a.offset in new for a in under_way), "asked for twice"
        assert not new & self.written[step.tensor], "it is here already"

    def _answer(self, connection: int) -> None:
        source, asked = self.sources[connection], self.asked[connection].pop(0)
        if isinstance(asked, AskHash):
            self.hashed.add(asked.tensor)
            self._finish_if(self.schedule.hash_came(connection), asked.tensor)
            return
        if isinstance(asked, AskAddress):
            self.schedule.address_came(connection)
            return
        if source == INTERNET and self.random.random() < 0.1:
            self.schedule.expired(connection, "it is too old", is_old=self.random.random() < 0.3)
            return
        self.given[asked.tensor].add(source)
        self.written[asked.tensor] |= set(range(asked.offset, asked.offset + asked.n_bytes))
        self._finish_if(self.schedule.came(connection, asked.n_bytes), asked.tensor)

    def _finish_if(self, is_ready: bool, tensor: int) -> None:
        if not is_ready:
            return
        assert self.written[tensor] == set(range(self.wanted[tensor].n_bytes))
        givers = {(source, tensor) for source in self.given.pop(tensor)}
        assert tensor in self.hashed or givers == {(INTERNET, tensor)}, "a peer may have lied about it"
        if givers & self.liars:
            if len(givers) == 1:
                self.caught |= givers
            self.written[tensor].clear()
            self.schedule.wrong(tensor)
        else:
            self.here.add(tensor)
            self.schedule.right(tensor)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    n_peers=st.integers(0, 3),
    n_lies=st.integers(0, 4),
    n_ends=st.integers(0, 6),
    n_web=st.integers(0, 2),
)
def test_all_tensors_come_whatever_peers_do_while_the_coordinator_lives(
    seed: int, sizes: list[int], n_peers: int, n_lies: int, n_ends: int, n_web: int
) -> None:
    chance = random.Random(seed)
    names = [f"p{number}" for number in range(n_peers)]
    wanted = [
        Wanted(
            number,
            n_bytes,
            peers=tuple(name for name in names if chance.random() < 0.6),
            is_hash_known=chance.random() < 0.3,
            part=chance.randrange(2),
        )
        for number, n_bytes in enumerate(sizes)
    ]
    sources = dict(enumerate([COORDINATOR, COORDINATOR, *(_peer(name) for name in names * 2), *[INTERNET] * n_web]))
    schedule = _schedule(*wanted, has_internet=n_web > 0)
    world = _World(chance, schedule, wanted, sources, hashed={w.tensor for w in wanted if w.is_hash_known})
    world.liars = {(_peer(chance.choice(names)), chance.randrange(len(sizes))) for _ in range(n_lies) if names}
    for connection, source in sources.items():
        schedule.connect(connection, source)
    next_number = len(sources)
    for turn in range(5000):
        if len(world.here) == len(wanted):
            break
        moved = [world.step(connection) for connection in chance.sample(sorted(sources), len(sources))]
        assert any(moved), "nothing is under way and nothing is asked for"
        if n_ends and turn % 5 == 4:
            n_ends -= 1
            connection = chance.choice(sorted(sources))
            source = sources.pop(connection)
            world.asked.pop(connection, None)
            schedule.gone(connection)
            if source == COORDINATOR or source in sources.values():
                # Another one in its place, as long as somebody is left there.
                schedule.connect(next_number, source)
                sources[next_number] = source
                next_number += 1
            else:
                schedule.drop(source, "gone")
        assert schedule.lost() is None
    assert world.here == set(range(len(wanted)))


def test_a_coordinator_that_gives_a_tensor_wrong_twice_is_asked_no_more() -> None:
    schedule = _schedule(Wanted(0, 4, is_hash_known=True), Wanted(1, 4, is_hash_known=True))
    schedule.connect(0, COORDINATOR)
    for is_last in (False, True):
        if not is_last:
            assert schedule.next(0) == Open(0)
            schedule.opened(0, [(0, 4)])
        assert schedule.next(0) == AskPiece(0, 0, 4)
        assert schedule.came(0, 4)
        schedule.wrong(0)
        assert (schedule.lost() is not None) is is_last
    assert schedule.lost() == (0, ["the coordinator gave wrong bytes, twice"])


def test_nobody_is_blamed_for_what_was_here_before() -> None:
    schedule = _schedule(Wanted(0, 8, peers=("a",), is_hash_known=True))
    schedule.connect(0, _peer("a"))
    assert schedule.next(0) == Open(0)
    schedule.opened(0, [(4, 8)])
    assert schedule.next(0) == AskPiece(0, 4, 4)
    assert schedule.came(0, 4)
    schedule.wrong(0)
    assert [schedule.next(0) for _ in range(2)] == [AskPiece(0, 0, 4), AskPiece(0, 4, 4)]


@pytest.mark.parametrize("copies", [(Origin.STORE,), (Origin.STORE, Origin.FILE)])
def test_copies_are_checked_one_after_the_other_before_anything_is_fetched(copies: tuple[Origin, ...]) -> None:
    schedule = _schedule(Wanted(0, 4, copies=copies, is_hash_known=True))
    schedule.connect(0, COORDINATOR)
    for at, copy in enumerate(copies):
        assert schedule.next(0) is None
        check = schedule.next_check()
        assert check is not None
        assert check.copy is copy
        assert schedule.next_check() is None
        assert schedule.wrong_copy(0) is (at + 1 < len(copies))
    assert schedule.next(0) == Open(0)
