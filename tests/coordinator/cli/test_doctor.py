# SPDX-License-Identifier: MIT
"""`caravan doctor` with a real worker, and with one that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.coordinator.caravan_command import ALONE, caravan, caravan_here, started
from tests.ports import nobodys_address


def test_a_worker_that_answers_is_well() -> None:
    with started("worker", "--name", "attic", "--listen", "127.0.0.1:0", "--no-mdns") as process:
        assert process.stdout is not None
        ready = re.match(r"worker attic ready on (\S+),", process.stdout.readline())
        assert ready
        ended = caravan("doctor", "--worker", ready[1], *ALONE)
        found = json.loads(caravan_here("doctor", "--json", "--worker", ready[1], *ALONE).stdout)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^ok +engine +llama-cpp-python 0\.", ended.stdout, re.MULTILINE)
    assert re.search(r"^ok +CPU ", ended.stdout, re.MULTILINE)
    assert re.search(r"^ok +attic +at 127\.0\.0\.1:\d+, on CPU, [\d.]+ ms there and back", ended.stdout, re.MULTILINE)
    assert {finding["verdict"] for finding in found} <= {"good", "note"}


def test_nobody_there_is_no_fault_but_comes_with_what_to_do() -> None:
    ended = caravan_here("doctor", *ALONE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no worker was found" in ended.stdout
    assert "start `caravan worker`" in ended.stdout


def test_a_worker_that_does_not_answer_is_bad() -> None:
    with nobodys_address() as address:
        ended = caravan_here("doctor", "--worker", address, *ALONE)
    assert ended.returncode == 1
    assert re.search(rf"^BAD +{re.escape(address)} ", ended.stdout, re.MULTILINE)


def test_a_cache_that_cannot_be_written_is_bad(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    ended = caravan_here("doctor", *ALONE, CARAVAN_CACHE=str(blocker / "cache"))
    if ended.returncode == 0:
        pytest.fail(ended.stdout)
    assert re.search(r"^BAD +cache ", ended.stdout, re.MULTILINE)
