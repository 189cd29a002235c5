# SPDX-License-Identifier: MIT
"""Clusters from their first worker to their last: made, joined, made anew without somebody, as users do it."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from protos.channels import Channels
from protos.cluster import Cluster
from protos.secret_file import IDENTITY_VARIABLE
from tests.coordinator.caravan_command import ALONE, ROOT, caravan, caravan_here, family_of
from tests.security.attacks import described, member
from worker.weights.waiting import limit_waits

_PATIENCE_S = 30
_CODE = re.compile(r"--join ((?:[0-9A-Z]{4}-){6}[0-9A-Z]{4})")

Start = Callable[..., "Supervised"]


class Supervised:
    """`caravan worker` as it is on one computer, which is a folder here: all its folders are in there."""

    def __init__(self, computer: Path, *arguments: str) -> None:
        self.folders = {IDENTITY_VARIABLE: str(computer / "identity"), "CARAVAN_CACHE": str(computer / "cache")}
        command = [sys.executable, "-m", "coordinator.cli", "worker", "--no-mdns", "--threads", "1", "--json"]
        self.process = subprocess.Popen(
            [*command, "--name", computer.name, *arguments],
            cwd=ROOT,
            env=os.environ | self.folders,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.address = self.next_address()

    def next_address(self) -> str:
        """Of the worker that is ready next."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return str(json.loads(line)["address"])

    def caravan(self, *arguments: str) -> str:
        """What a command says there on stdout."""
        ended = caravan_here(*arguments, **self.folders)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def cluster(self) -> Cluster:
        """That it is a member of."""
        return Cluster.of_code(json.loads(self.caravan("cluster", "show", "--json"))["code"])

    def stop(self) -> str:
        """Ends it, with all its workers; what it complained of."""
        family = family_of(self.process)
        self.process.terminate()
        _, complaints = self.process.communicate(timeout=_PATIENCE_S)
        for each in family[1:]:
            each.wait(_PATIENCE_S)
        return complaints


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers on computers by name."""
    started: list[Supervised] = []

    def start(computer: str, *arguments: str) -> Supervised:
        started.append(Supervised(tmp_path / computer, *arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.stop()


def _is_refused(cluster: Cluster, address: str) -> bool:
    try:
        member(cluster).call(address)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_the_first_worker_makes_a_cluster_and_the_second_joins_it_once(start: Start, tmp_path: Path) -> None:
    desk = start("desk")
    file = tmp_path / "desk" / "identity" / "cluster.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    said = desk.stop()
    found = _CODE.search(said)
    assert found is not None, said
    desk = start("desk")
    attic = start("attic", "--join", found.group(1).lower())
    nodes = json.loads(desk.caravan("nodes", "--json", *ALONE, "--worker", attic.address, "--worker", desk.address))
    assert [worker["name"] for worker in nodes["workers"]] == ["attic", "desk"]
    # Neither the code nor the option is anywhere that others see: not with the workers, not in what the second says.
    lines = [" ".join(process.cmdline()) for process in family_of(attic.process)[1:]]
    assert lines
    assert not any("--join" in line for line in lines)
    assert found.group(1) not in attic.stop()
    attic = start("attic")
    assert member(desk.cluster()).call(attic.address).name == "attic"
    assert "new cluster" not in attic.stop()


@pytest.mark.slow
def test_an_expelled_worker_is_refused_and_so_is_the_code_that_it_has(start: Start) -> None:
    desk = start("desk")
    before = desk.cluster()
    attic = start("attic", "--join", before.code)
    desk.caravan("nodes", *ALONE, "--worker", attic.address)
    # Attic keeps a connection open, past the day it is expelled.
    kept = Channels(before).channel(desk.address, [])
    port = described(kept).weights_port
    host = desk.address.rpartition(":")[0]
    with kept, member(before).connected(host, port) as connection:
        told = desk.caravan("cluster", "expel", "attic")
        after = desk.cluster()
        assert after != before
        assert told.split() == ["caravan", "cluster", "join", "--replace", after.code]
        address = desk.next_address()
        limit_waits(connection, receive_s=5, send_s=5)
        assert connection.recv(1) == b""
        with pytest.raises(grpc.RpcError):
            described(kept)
    assert member(after).call(address).name == "desk"
    # The worker itself, with its certificate, as a client and as a server; and whoever has its code.
    assert _is_refused(before, address)
    left_out = json.loads(desk.caravan("nodes", "--json", *ALONE, "--worker", attic.address))
    assert (left_out["workers"], len(left_out["left_out"])) == ([], 1)
    assert "not of this computer's cluster" in left_out["left_out"][0]["reason"]
    replayed = caravan_here("cluster", "join", before.code, **desk.folders)
    assert replayed.returncode == 1
    assert "already" in replayed.stderr
    # Who was not expelled joins again.
    attic.caravan("cluster", "join", "--replace", after.code)
    assert member(after).call(attic.next_address()).name == "attic"


def test_a_join_code_that_was_mistyped_is_wrong_usage_and_is_not_repeated(tmp_path: Path) -> None:
    code = Cluster.new().code
    wrong = code[:-1] + ("0" if code[-1] != "0" else "1")
    ended = caravan("worker", "--join", wrong, **{IDENTITY_VARIABLE: str(tmp_path)})
    assert ended.returncode == 2
    assert "mistyped" in ended.stderr
    assert wrong not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_code_is_read_from_stdin_where_no_list_of_processes_shows_it(tmp_path: Path) -> None:
    cluster = Cluster.new()
    identity = {IDENTITY_VARIABLE: str(tmp_path)}
    assert caravan_here("cluster", "join", "-", stdin=f"{cluster.code}\n", **identity).returncode == 0
    assert (
        json.loads(caravan_here("cluster", "show", "--json", **identity).stdout)["fingerprint"] == cluster.fingerprint
    )


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [("{}", 0o600, "was damaged"), ('{"code": "0"}', 0o600, "was damaged"), ("{}", 0o644, "others may read it")],
)
def test_a_secret_that_is_none_is_used_by_nobody(tmp_path: Path, content: str, mode: int, sentence: str) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(content)
    path.chmod(mode)
    identity = {IDENTITY_VARIABLE: str(tmp_path)}
    command = [sys.executable, "-m", "worker", "--no-mdns"]
    worker = subprocess.run(
        command, cwd=ROOT, env=os.environ | identity, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )
    for ended in (worker, caravan_here("nodes", *ALONE, **identity)):
        assert (ended.returncode, ended.stdout) == (1, "")
        assert sentence in ended.stderr


def test_what_stays_on_this_machine_makes_no_cluster(tmp_path: Path) -> None:
    identity = {IDENTITY_VARIABLE: str(tmp_path / "identity")}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        caravan("worker", "--no-mdns", "--listen", f"127.0.0.1:{port}", **identity)
    assert caravan_here("nodes", *ALONE, **identity).returncode == 0
    assert not (tmp_path / "identity").exists()
