# SPDX-License-Identifier: MIT
"""`caravan nodes` and `caravan plan` with a real worker, and `caravan worker` as the way to start it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.coordinator.caravan_command import ALONE, DEMO_MODEL, caravan, caravan_here, started
from tests.coordinator.terminal import in_terminal
from tests.ports import own_port


@pytest.fixture(scope="module")
def attic() -> Iterator[str]:
    """The address of a worker called attic."""
    with started("worker", "--name", "attic", "--listen", "127.0.0.1:0", "--no-mdns") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = re.match(r"worker attic ready on (127\.0\.0\.1:\d+), device ", line)
        assert ready, line or (process.stderr and process.stderr.read())
        yield ready.group(1)


def test_nodes_lists_a_worker_with_its_device_and_memory(attic: str) -> None:
    ended = caravan("nodes", "--worker", attic, *ALONE)
    assert ended.returncode == 0, ended.stderr
    heading, row = ended.stdout.splitlines()
    before, behind = ["WORKER", "ADDRESS", "HOST", "DEVICE", "FREE", "TOTAL"], ["LLAMA.CPP", "HOLDS"]
    told = [column for column in heading.split() if column not in before + behind]
    assert heading.split() == before + told + behind
    # What else is told of a processor depends on the machine.
    assert told[0] == "USED"
    assert row.startswith(f"attic   {attic}")
    assert "CPU (" in row
    assert "GiB" in row
    assert "\x1b" not in ended.stdout


def test_nodes_as_json_holds_the_same(attic: str) -> None:
    ended = caravan_here("nodes", "--json", "--worker", attic, *ALONE)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    (worker,) = report["workers"]
    assert (worker["name"], worker["address"], worker["loaded"]) == ("attic", attic, [])
    assert 0 < worker["device"]["free_bytes"] <= worker["device"]["total_bytes"]
    assert report["left_out"] == []
    (told,) = worker["telemetry"]
    assert told["device"] == "CPU"
    assert told["used_bytes"] > 0


def test_watching_nodes_shows_who_comes_and_goes(attic: str) -> None:
    cellar = f"127.0.0.1:{own_port()}"
    with in_terminal("nodes", "--watch", "--worker", attic, "--worker", cellar, *ALONE) as terminal:
        terminal.wait_for(rf"attic +{attic}[\s\S]*left out: {cellar}")
        with started("worker", "--name", "cellar", "--listen", cellar, "--no-mdns"):
            terminal.wait_for(rf"\d\d:\d\d:\d\d  cellar is there, at {cellar}")
        terminal.wait_for(r"\d\d:\d\d:\d\d  cellar is gone")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143


def test_nodes_without_workers_says_how_to_start_one() -> None:
    ended = caravan_here("nodes", *ALONE)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "caravan worker" in ended.stderr


def test_plan_tells_who_would_hold_what_and_loads_nothing(attic: str) -> None:
    ended = caravan("plan", DEMO_MODEL, "--worker", attic, *ALONE)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"attic +CPU +0-7 \+ embedding \+ output +[\d.]+ MiB", ended.stdout)
    assert re.search(r"predicted: [\d.]+ tokens per second for one stream", ended.stdout)
    nodes = json.loads(caravan_here("nodes", "--json", "--worker", attic, *ALONE).stdout)
    assert nodes["workers"][0]["loaded"] == []


def test_plan_as_json_names_every_stage(attic: str) -> None:
    ended = caravan_here("plan", DEMO_MODEL, "--json", "--worker", attic, *ALONE)
    assert ended.returncode == 0, ended.stderr
    plan = json.loads(ended.stdout)
    (stage,) = plan["stages"]
    assert plan["prediction"]["tokens_per_s"] > 0
    assert (stage["worker"], stage["layer_start"], stage["layer_end"]) == ("attic", 0, 8)
    assert stage["weights_bytes"] > 1_000_000


def test_the_last_plan_is_kept_with_what_it_predicted_and_what_came_of_it(tmp_path: Path) -> None:
    cache = {"CARAVAN_CACHE": str(tmp_path)}
    before = caravan_here("plan", "--last", **cache)
    assert (before.returncode, before.stdout) == (1, "")
    assert "no plan was carried out yet" in before.stderr
    assert caravan("demo", "--seed", "7", **cache).returncode == 0
    last = caravan_here("plan", "--last", **cache)
    assert last.returncode == 0, last.stderr
    assert re.search(r"^demo: 8 layers", last.stdout, re.MULTILINE)
    assert re.search(r"^measured: [\d.]+ tokens per second .*; the prediction was [\d.]+ of that", last.stdout, re.M)
    assert len(re.findall(r"^  \S+ computed [\d.]+ ms per token; predicted [\d.]+ ms$", last.stdout, re.M)) == 2
    kept = json.loads(caravan_here("plan", "--last", "--json", **cache).stdout)
    assert kept["measured_tokens_per_s"] > 0
    assert all(stage["measured_s"] > 0 for stage in kept["stages"])
    (taught,) = (tmp_path / "corrections").iterdir()
    (correction,) = json.loads(taught.read_text()).values()
    assert 0.5 <= correction["factor"] <= 2


def test_a_last_plan_that_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / "last-plan.json").write_text("{")
    ended = caravan_here("plan", "--last", CARAVAN_CACHE=str(tmp_path))
    assert ended.returncode == 1
    assert "delete it" in ended.stderr


@pytest.mark.parametrize("arguments", [(), ("demo", "--last")])
def test_plan_needs_a_model_or_the_last(arguments: tuple[str, ...]) -> None:
    ended = caravan_here("plan", *arguments)
    assert ended.returncode == 2
    assert "give either MODEL or --last" in ended.stderr


def test_run_uses_the_worker_that_it_is_told_of(attic: str) -> None:
    ended = caravan("run", DEMO_MODEL, "Once upon a time", "-n", "5", "--worker", attic, *ALONE)
    assert ended.returncode == 0, ended.stderr
    assert "attic" in ended.stderr
    assert "no worker" not in ended.stderr
