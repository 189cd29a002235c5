# SPDX-License-Identifier: MIT
"""Meshes of one coordinator over the same workers: a worker holds one line."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from coordinator.claims import Claims, OpeningClaim
from coordinator.errors import NoWorkersError
from coordinator.events import ignore
from coordinator.mesh import OpenOptions
from coordinator.resident import KnownModel, MeshOpener
from tests.line.conftest import N_BATCH, N_CTX
from tests.line.processes import WorkerProcess

_NOBODY = "127.0.0.1:1"
"""Of the first mesh it would be an error that nobody is there."""


def test_what_one_has_no_other_may_take_unless_it_is_lent() -> None:
    claims = Claims()
    first, second = OpeningClaim(claims, {}), OpeningClaim(claims, {"attic": "attic:1"})
    claims.enter(first)
    claims.enter(second)
    first.note(["attic", "cellar"])
    assert first.taken == frozenset()
    assert second.taken == {"cellar"}
    second.note(["attic", "desk"])
    assert first.taken == {"desk"}  # what is lent stays whose it is
    claims.leave(first)
    claims.leave(first)
    assert second.taken == frozenset()


async def test_a_mesh_leaves_alone_who_is_of_another_though_it_was_named(workers: list[WorkerProcess]) -> None:
    options = OpenOptions(
        workers=[worker.address for worker in workers[:2]], discover=False, max_stages=1, context=N_CTX, batch=N_BATCH
    )
    opener, model = MeshOpener(), KnownModel("demo", "demo", options)
    opened = [await opener.open(model, ignore, ignore)]
    try:
        named = [*options["workers"], _NOBODY]
        opened.append(await opener.open(replace(model, options=options | {"workers": named}), ignore, ignore))
        first, second = (set(each.workers) for each in opened)
        assert first | second == {"attic", "cellar"}
        assert not first & second
        with pytest.raises(
            NoWorkersError, match=r"other models have all workers that could take part \(attic, cellar\)"
        ):
            await opener.open(model, ignore, ignore)
        assert await opener.workers_for(model, opened[0].workers) == first
    finally:
        await asyncio.gather(*(each.close(may_stay_warm=False) for each in opened))
