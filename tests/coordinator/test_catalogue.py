# SPDX-License-Identifier: MIT
"""Who is loaded, who waits and who makes way, with models that are loaded when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import cast

import pytest

from coordinator.catalogue import Catalogue, ModelPhase
from coordinator.errors import (
    CaravanError,
    ClosedError,
    DeadlineError,
    ModelError,
    NoWorkersError,
    OverloadedError,
    PlanError,
    UnloadedError,
)
from coordinator.events import LineChange, LineEvent, OnLineEvent, OnProgress
from coordinator.mesh import AsyncMesh
from coordinator.resident import KnownModel, Resident
from coordinator.shelf import Lease


class _Mesh:
    """As a resident has it."""

    error: CaravanError | None = None


class _Loaded:
    """A resident; `is_busy` says whether requests run."""

    def __init__(self, house: _House, name: str, workers: frozenset[str]) -> None:
        self._house = house
        self._name = name
        self.workers = dict.fromkeys(workers, "")
        self.mesh = cast(AsyncMesh, _Mesh())
        self.is_busy = False
        self.ended_with: CaravanError | None = None

    def end_requests(self, error: CaravanError) -> None:
        self.ended_with, self.is_busy = error, False

    async def close(self, *, may_stay_warm: bool) -> None:
        await asyncio.sleep(0)
        self._house.free |= self.workers.keys()
        self._house.loaded.pop(self._name, None)
        self._house.history.append(f"-{self._name}")


class _House:
    """Workers of which each model needs so many, and takes the first that are free."""

    def __init__(self, n_workers: int, **needs: int) -> None:
        self.free = {f"w{number}" for number in range(n_workers)}
        self.needs = needs
        self.loaded: dict[str, _Loaded] = {}
        self.history: list[str] = []
        self.faults: dict[str, Exception] = {}
        self.opening = ""
        self.gate = asyncio.Event()
        self.gate.set()

    def _chosen(self, name: str, there: set[str]) -> frozenset[str]:
        if name in self.faults:
            raise self.faults[name]
        if not there:
            raise NoWorkersError("nobody is idle")
        if len(there) < self.needs[name]:
            raise PlanError(f"{name} needs {self.needs[name]} workers, and there are {len(there)}")
        return frozenset(sorted(there)[: self.needs[name]])

    async def open(self, model: KnownModel, on_progress: OnProgress, on_event: OnLineEvent) -> Resident:
        self.opening = model.name
        await self.gate.wait()
        chosen = self._chosen(model.name, self.free)
        self.free -= chosen
        self.loaded[model.name] = _Loaded(self, model.name, chosen)
        self.history.append(f"+{model.name}")
        return cast(Resident, self.loaded[model.name])

    async def workers_for(self, model: KnownModel, lent: Mapping[str, str]) -> frozenset[str]:
        return self._chosen(model.name, self.free | lent.keys())


@contextlib.asynccontextmanager
async def _catalogue(house: _House, *, most_loaded: int = 0, swap_timeout_s: float = 60) -> AsyncIterator[Catalogue]:
    models = [KnownModel(name, name, {"queue": 1, "parallel": 2}) for name in house.needs]
    catalogue = Catalogue(models, house, most_loaded=most_loaded, swap_timeout_s=swap_timeout_s)
    try:
        yield catalogue
    finally:
        await catalogue.close()
    assert house.loaded == {}


async def _use(catalogue: Catalogue, *names: str) -> None:
    for name in names:
        with catalogue.lease(name) as lease:
            await lease.arrived(5)


async def _asked(catalogue: Catalogue, name: str) -> asyncio.Task[None]:
    """A request that waits."""
    asking = asyncio.create_task(_use(catalogue, name))
    await asyncio.sleep(0)
    return asking


async def _a_busy_one_makes_way(house: _House, catalogue: Catalogue) -> tuple[asyncio.Task[None], asyncio.Task[None]]:
    """Requests that wait: for a, which is busy and is to leave for b, and for b."""
    await _use(catalogue, "a")
    house.loaded["a"].is_busy = True
    b = await _asked(catalogue, "b")
    await _until(lambda: catalogue.status("a").is_leaving)
    return await _asked(catalogue, "a"), b


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- what is waited for tells nobody
        await asyncio.sleep(0)


async def _until_idle(catalogue: Catalogue) -> None:
    await _until(lambda: not catalogue._orders)


async def test_a_model_is_loaded_when_it_is_asked_for_and_stays() -> None:
    house = _House(1, a=1)
    async with _catalogue(house) as catalogue:
        assert catalogue.status("a").phase is ModelPhase.UNLOADED
        await _use(catalogue, "a", "a")
        assert catalogue.status("a").phase is ModelPhase.LOADED
        assert house.history == ["+a"]


async def test_models_that_have_room_are_loaded_beside_each_other_up_to_the_limit() -> None:
    house = _House(3, a=1, b=1, c=1)
    async with _catalogue(house, most_loaded=2) as catalogue:
        await _use(catalogue, "a", "b", "a", "c")
        assert house.history == ["+a", "+b", "-b", "+c"]  # a was used after b


@pytest.mark.parametrize(
    ("needs", "leaves"), [({"a": 1, "b": 2, "c": 2}, ["-b"]), ({"a": 1, "b": 2, "c": 3}, ["-a", "-b"])]
)
async def test_who_makes_way_is_whose_workers_the_plan_needs(needs: dict[str, int], leaves: list[str]) -> None:
    house = _House(3, **needs)
    async with _catalogue(house) as catalogue:
        await _use(catalogue, "b", "a", "c")
        assert sorted(house.history[2:-1]) == leaves


async def test_a_model_that_fits_nowhere_leaves_the_others_where_they_are() -> None:
    house = _House(2, a=1, b=3)
    async with _catalogue(house) as catalogue:
        await _use(catalogue, "a")
        with pytest.raises(PlanError, match="needs 3 workers, and there are 2"):
            await _use(catalogue, "b")
        assert house.history == ["+a"]
        assert "needs 3" in str(catalogue.status("b").error)


async def test_two_clients_that_alternate_both_get_answers() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        await asyncio.gather(_use(catalogue, *"aaaaa"), _use(catalogue, *"bbbbb"))
        assert catalogue.status("a").n_waiting == catalogue.status("b").n_waiting == 0


async def test_requests_that_come_later_do_not_hold_up_the_model_that_is_wanted() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        a, b = await _a_busy_one_makes_way(house, catalogue)
        house.loaded["a"].is_busy = False
        await asyncio.gather(b, a)
        assert house.history == ["+a", "-a", "+b", "-b", "+a"]


async def test_all_who_wait_have_the_model_before_it_can_make_way_again() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        house.gate.clear()
        leases = [catalogue.lease("a") for _ in range(3)]
        b = await _asked(catalogue, "b")
        house.gate.set()
        for lease in leases:
            await lease.arrived(5)
        await asyncio.sleep(0.1)  # in which it would have made way
        assert house.history == ["+a"]
        for lease in leases:
            lease.release()
        await b
        assert house.history == ["+a", "-a", "+b"]


async def test_requests_that_take_too_long_end_when_their_model_makes_way() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house, swap_timeout_s=0.01) as catalogue:
        await _use(catalogue, "a")
        a = house.loaded["a"]
        a.is_busy = True
        await _use(catalogue, "b")
        assert isinstance(a.ended_with, UnloadedError)
        assert "to make room for b" in str(a.ended_with)


async def test_who_gives_up_while_room_is_made_leaves_the_other_model_where_it_is() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        a, b = await _a_busy_one_makes_way(house, catalogue)
        b.cancel()
        await a
        await _until_idle(catalogue)
        assert house.history == ["+a"]
        assert catalogue.status("b").phase is ModelPhase.UNLOADED


async def test_a_load_that_has_begun_goes_on_when_nobody_waits_any_more() -> None:
    house = _House(1, a=1)
    async with _catalogue(house) as catalogue:
        house.gate.clear()
        a = await _asked(catalogue, "a")
        await _until(lambda: house.opening == "a")
        a.cancel()
        house.gate.set()
        await _until_idle(catalogue)
        assert catalogue.status("a").phase is ModelPhase.LOADED


async def test_nobody_makes_way_for_what_nobody_waits_for_any_more() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        await _use(catalogue, "a")
        house.gate.clear()
        b = await _asked(catalogue, "b")
        await _until(lambda: house.opening == "b")
        b.cancel()
        await asyncio.sleep(0)
        house.gate.set()
        await _until_idle(catalogue)
        assert house.history == ["+a"]
        assert catalogue.status("b").error is None


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        house.gate.clear()
        a, b = await _asked(catalogue, "a"), await _asked(catalogue, "b")
        b.cancel()
        house.gate.set()
        await a
        await _until_idle(catalogue)
        assert house.history == ["+a"]


async def test_a_failure_is_told_to_all_who_wait_and_tried_again_at_the_next_request() -> None:
    house = _House(1, a=1)
    async with _catalogue(house) as catalogue:
        house.faults["a"] = ModelError("the file is cut off")
        told = await asyncio.gather(_use(catalogue, "a"), _use(catalogue, "a"), return_exceptions=True)
        assert [str(each) for each in told] == ["the file is cut off"] * 2
        assert catalogue.status("a").phase is ModelPhase.UNLOADED
        assert str(catalogue.status("a").error) == "the file is cut off"
        house.faults.clear()
        await _use(catalogue, "a")
        assert catalogue.status("a").error is None


async def test_a_failure_beside_others_costs_them_nothing() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house, most_loaded=1) as catalogue:
        await _use(catalogue, "a")
        house.faults["b"] = ModelError("the file is cut off")
        with pytest.raises(ModelError):
            await _use(catalogue, "b")
        assert house.history == ["+a"]


async def test_loading_counts_against_the_time_of_a_request_and_the_queue_is_bounded() -> None:
    house = _House(1, a=1)
    async with _catalogue(house) as catalogue:
        house.gate.clear()
        with catalogue.lease("a") as lease, pytest.raises(DeadlineError, match=r"0.01 s"):
            await lease.arrived(0.01)
        leases = [catalogue.lease("a") for _ in range(3)]
        with pytest.raises(OverloadedError):
            catalogue.lease("a")
        for lease in leases:
            lease.release()
        catalogue.lease("a").release()


async def test_a_model_is_loaded_and_unloaded_by_order() -> None:
    house = _House(1, a=1)
    async with _catalogue(house) as catalogue:
        catalogue.load("a")
        assert catalogue.status("a").phase is ModelPhase.LOADING
        await _until_idle(catalogue)
        assert house.history == ["+a"]
        house.loaded["a"].is_busy = True
        catalogue.unload("a")
        await _until(lambda: catalogue.status("a").is_leaving)
        again = await _asked(catalogue, "a")
        house.loaded["a"].is_busy = False
        await again
        assert house.history == ["+a", "-a", "+a"]


async def test_to_unload_what_is_loading_calls_that_off_and_tells_who_waits() -> None:
    house = _House(1, a=1)
    async with _catalogue(house) as catalogue:
        house.gate.clear()
        lease: Lease = catalogue.lease("a")
        await _until(lambda: house.opening == "a")
        catalogue.unload("a")
        again = await _asked(catalogue, "a")
        with lease, pytest.raises(UnloadedError, match="told to unload"):
            await lease.arrived(5)
        house.gate.set()
        await again
        assert house.history == ["+a"]


async def test_who_serves_no_more_makes_way_first_and_for_nothing() -> None:
    house = _House(2, a=1, b=1, c=1)
    async with _catalogue(house) as catalogue:
        await _use(catalogue, "a", "b")
        house.loaded["b"].is_busy = True
        cast(_Mesh, house.loaded["b"].mesh).error = NoWorkersError("all are gone")
        await _use(catalogue, "c")
        assert house.history[2:] == ["-b", "+c"]


async def test_stopping_turns_away_who_waits_and_leaves_what_is_loaded() -> None:
    house = _House(1, a=1, b=1)
    async with _catalogue(house) as catalogue:
        await _use(catalogue, "a")
        house.loaded["a"].is_busy = True
        b = await _asked(catalogue, "b")
        catalogue.stop()
        with pytest.raises(ClosedError, match="stopping"):
            await b
        with pytest.raises(ClosedError):
            catalogue.lease("a")
        assert catalogue.mesh("a") is not None


async def test_where_none_is_named_it_is_the_one_that_was_used_last() -> None:
    house = _House(2, a=1, b=1)
    async with _catalogue(house) as catalogue:
        assert catalogue.default == "a"
        await _use(catalogue, "b", "a", "b")
        assert catalogue.default == "b"


async def test_what_becomes_of_models_is_told() -> None:
    house, told = _House(1, a=1, b=1), list[tuple[str, LineChange]]()

    def note(name: str, event: LineEvent) -> None:
        told.append((name, event.change))

    catalogue = Catalogue([KnownModel("a", "a"), KnownModel("b", "b")], house, on_event=note)
    await _use(catalogue, "a", "b")
    house.faults["a"] = ModelError("gone")
    with contextlib.suppress(ModelError):
        await _use(catalogue, "a")
    await catalogue.close()
    assert told == [
        ("a", LineChange.LOADING),
        ("a", LineChange.LOADED),
        ("b", LineChange.LOADING),
        ("a", LineChange.UNLOADED),
        ("b", LineChange.LOADED),
        ("a", LineChange.LOADING),
        ("a", LineChange.NOT_LOADED),
    ]
