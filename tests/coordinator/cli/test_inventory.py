# SPDX-License-Identifier: MIT
"""`caravan plan --inventory`: a plan without a worker anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.coordinator.caravan_command import caravan_here


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    path = tmp_path / "machines.toml"
    path.write_text('[[device]]\nname = "desk"\ncard = "RTX 3090"\n\n[[device]]\nname = "old"\ncard = "DDR4-2666"\n')
    with path.open("a") as file:
        file.write('memory = "32GiB"\n')
    return path


def test_a_plan_for_an_inventory_asks_nobody_and_says_first_that_it_estimates(machines: Path) -> None:
    ended = caravan_here("plan", "demo", "--inventory", machines)
    assert (ended.returncode, ended.stderr) == (0, "")
    first, headline, *_ = ended.stdout.splitlines()
    assert first.startswith(f"estimates from data sheets ({machines}), not measurements")
    assert headline == "not split: desk can hold it all, and one stream is fastest there"


def test_as_json_it_says_what_its_figures_rest_on(machines: Path) -> None:
    plan = json.loads(caravan_here("plan", "demo", "--json", "--inventory", machines).stdout)
    assert plan["basis"].startswith("estimates from data sheets")
    assert [(stage["worker"], stage["device"]) for stage in plan["stages"]] == [("desk", "RTX 3090")]
    assert plan["prediction"]["tokens_per_s"] > 0


def test_an_inventory_and_a_worker_exclude_each_other(machines: Path) -> None:
    ended = caravan_here("plan", "demo", "--inventory", machines, "--worker", "127.0.0.1:1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1] == (
        "caravan: --inventory plans for machines that need not be there: leave out --worker"
    )


def test_a_fault_of_the_file_is_one_sentence(machines: Path) -> None:
    machines.write_text('[[device]]\nname = "desk"\n')
    ended = caravan_here("plan", "demo", "--inventory", machines)
    assert (ended.returncode, ended.stdout) == (1, "")
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith(f"caravan: {machines}: device 'desk': memory is missing: add it")
