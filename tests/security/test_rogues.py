# SPDX-License-Identifier: MIT
"""Whoever shows themselves on the network as one of us: a member gives them nothing, and says what it saw."""

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator import WorkerLostError, discover
from coordinator.discovery import Discovery
from protos.channels import PLAIN, Channels
from protos.cluster import Cluster, create_cluster
from protos.contract import CONTRACT_VERSION
from protos.discovery import WorkerRecord
from protos.secret_file import IDENTITY_VARIABLE
from tests.coordinator.caravan_command import caravan
from tests.line.processes import WorkerProcess
from worker.announce import Announcer

_PATIENCE_S = 1.5
"""All that is announced is on this machine."""


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker of another cluster, announced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IDENTITY_VARIABLE, str(tmp_path_factory.mktemp("theirs")))
        create_cluster()
        worker = WorkerProcess(f"mallory-{secrets.token_hex(4)}", announced=True)
    yield worker
    worker.stop()


@contextlib.contextmanager
def _announced(address: str, fingerprint: str) -> Iterator[str]:
    """Somebody at that address, shown as a member of the cluster with that fingerprint; the name."""
    host, _, port = address.rpartition(":")
    name = f"rogue-{secrets.token_hex(4)}"
    record = WorkerRecord(name, secrets.token_hex(8), host, int(port), CONTRACT_VERSION, "build", "CPU", fingerprint)
    announcer = Announcer(loopback_only=True)
    try:
        announcer.announce(record, [host], may_change=False)
        yield name
    finally:
        announcer.close()


@contextlib.contextmanager
def _listener() -> Iterator[tuple[str, bytearray]]:
    """Its address, and what it was sent; it takes everything and says nothing."""
    heard = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(_PATIENCE_S)
                    while data := connection.recv(1 << 16):
                        heard.extend(data)

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", heard
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def _look(channels: Channels) -> Discovery:
    return asyncio.run(discover(channels=channels, timeout_s=_PATIENCE_S))


def _left_out(found: Discovery, name: str) -> WorkerLostError:
    errors = [each.error for each in found.left_out if each.name == name]
    assert isinstance(errors[0], WorkerLostError)
    return errors[0]


def test_a_worker_of_another_cluster_is_not_even_talked_to(cluster: Cluster, stranger: WorkerProcess) -> None:
    found = _look(Channels(cluster))
    assert found.n_strangers >= 1
    assert stranger.name not in {*(each.name for each in found.found), *(each.name for each in found.left_out)}


def test_another_server_behind_our_fingerprint_fails_the_handshake(cluster: Cluster, stranger: WorkerProcess) -> None:
    with _announced(stranger.address, cluster.fingerprint) as name:
        found = _look(Channels(cluster))
    assert "not of this computer's cluster" in str(_left_out(found, name))


def test_a_listener_behind_our_fingerprint_hears_the_start_of_a_handshake_and_nothing_else(
    cluster: Cluster,
) -> None:
    with _listener() as (address, heard), _announced(address, cluster.fingerprint) as name:
        found = _look(Channels(cluster))
    assert isinstance(_left_out(found, name), WorkerLostError)
    # TLS records of type handshake (22): a ClientHello, which has no certificate, and no call.
    sent, n_records = bytes(heard), 0
    while sent:
        assert sent[0] == 22
        n_records += 1
        sent = sent[5 + int.from_bytes(sent[3:5], "big") :]
    assert n_records >= 1
    leaf = Channels(cluster).fresh_leaf()
    assert b"caravan.v1" not in heard
    assert leaf.certificate[60:90] not in heard


def test_without_a_cluster_a_worker_elsewhere_is_not_talked_to() -> None:
    with _listener() as (address, heard):
        elsewhere = f"192.0.2.1:{address.rpartition(':')[2]}"
        found = asyncio.run(asyncio.wait_for(discover([elsewhere], channels=PLAIN, mdns=False), 1))
        assert "--insecure-workers" in found.left_out[0].reason
        assert heard == b""


@pytest.mark.slow
def test_who_finds_nobody_but_strangers_is_told_so(stranger: WorkerProcess, tmp_path: Path) -> None:
    looking = ("--discovery-timeout", str(_PATIENCE_S))
    ended = caravan("run", "demo", "hello", "--local", "0", *looking, **{IDENTITY_VARIABLE: str(tmp_path)})
    assert ended.returncode == 3
    assert "caravan cluster join" in ended.stderr
    assert "seen that" in ended.stderr
    doctor = caravan("doctor", *looking, **{IDENTITY_VARIABLE: str(tmp_path)})
    assert "strangers" in doctor.stdout
    assert "a member of none" in doctor.stdout
