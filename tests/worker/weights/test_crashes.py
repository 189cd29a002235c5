# SPDX-License-Identifier: MIT
"""Processes that are killed, and disks that are full: what was verified stays, and nothing wrong is ever held."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.driver import ROOT
from tests.worker.weights.conftest import OpenStore
from tests.worker.weights.fetching import Source

_TIMEOUT_S = 60
_N_ROUNDS = 60

# Holds a claim, and what it has written of the tensor, until it is killed.
_HOLDER = """
import sys, time
from pathlib import Path
from tests.worker.weights.fetching import Source
from worker.weights.store import ModelStore
source = Source(Path(sys.argv[2]))
model = ModelStore(Path(sys.argv[1]), None, "this start").create(source.layout.identity, source.parts, source.chunks())
writer = model.begin(1)
writer.write(0, source.tensor(1)[:100])
print("ready", flush=True)
time.sleep(60)
"""

# Fetches all of a model, beside others that do the same, and says how many bytes it wrote.
_FETCHER = """
import random, sys
from pathlib import Path
from tests.worker.weights.fetching import Source
from worker.weights.store import ModelStore
source, order = Source(Path(sys.argv[2])), random.Random(int(sys.argv[3]))
model = ModelStore(Path(sys.argv[1]), None).create(source.layout.identity, source.parts, source.chunks())
print("ready", flush=True)
input()
tensors = list(range(source.n_tensors))
order.shuffle(tensors)
n_bytes = 0
for tensor in tensors:
    writer = model.begin(tensor, wait_s=20)
    if writer is not None:
        with writer:
            n_bytes += source.write(writer, tensor, piece_bytes=512, order=order)
            writer.finish(source.hash(tensor))
assert model.held() == set(tensors) and not source.wrong(model)
print(n_bytes)
"""


def test_two_processes_that_want_the_same_fetch_it_once(tmp_path: Path, source: Source) -> None:
    arguments = [sys.executable, "-c", _FETCHER, str(tmp_path / "models"), str(source.layout.path)]
    processes = [
        subprocess.Popen([*arguments, str(seed)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    written = [int(process.communicate(timeout=_TIMEOUT_S)[0]) for process in processes]
    assert sum(written) == source.layout.n_bytes
    assert all(written)


def test_a_fetch_that_is_killed_at_any_moment_goes_on_with_what_it_had(tmp_path: Path, source: Source) -> None:
    command = [sys.executable, "-m", "tests.worker.weights.killed", str(tmp_path / "models"), str(source.layout.path)]
    ended = subprocess.run(
        [*command, str(_N_ROUNDS)], cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["killed"] > _N_ROUNDS / 2
    assert seen["resumed"] > 0
    assert seen["complete"] > 0


def test_the_tensor_of_a_killed_process_is_taken_over_and_its_model_was_not_deleted(
    tmp_path: Path, open_store: OpenStore, source: Source
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "models"), str(source.layout.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        store = open_store()
        model = store.find(source.layout.identity)
        assert model is not None
        assert model.begin(1, wait_s=0.1) is None
        assert not model.is_held(1)
        assert store.remove(source.layout.identity) == 0
    finally:
        holder.kill()
        holder.communicate()
    writer = model.begin(1, wait_s=10)
    assert writer is not None
    with writer:
        assert writer.missing() == [(100, writer.n_bytes)]
        writer.write(100, source.tensor(1)[100:])
        writer.finish(source.hash(1))
    assert source.wrong(model) == []
    assert store.remove(source.layout.identity) > 0


def test_a_full_disk_is_said_and_what_was_verified_stays(tmp_path: Path, source: Source, other_source: Source) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    program = [sys.executable, "-m", "tests.worker.weights.full_disk", str(disk)]
    program += [str(source.layout.path), str(other_source.layout.path)]
    ended = subprocess.run(
        [*_own_mounts(), "sh", "-c", f'mount -t tmpfs -o size=2m tmpfs "{disk}" && exec "$@"', "sh", *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["first_left"]
    assert seen["second_right"]
    assert seen["wrong"] == []
    assert 0 < seen["n_held"] < source.n_tensors
    assert re.search(r"room for [\d.]+ (Ki)?B: free some of that disk", seen["error"])
    assert seen["needed_bytes"] > 0
    assert 0 <= seen["error_free_bytes"] < 100_000
    assert seen["first_right"]


def _own_mounts() -> list[str]:
    """What runs a command where it may mount something; skips where this user may not."""
    if shutil.which("unshare") is not None:
        for command in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command
    pytest.skip("this user may not mount a small disk here")
