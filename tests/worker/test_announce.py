# SPDX-License-Identifier: MIT
"""A worker on mDNS: found while it serves, gone when it leaves, and never two of one name."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from zeroconf import ServiceBrowser, ServiceListener, Zeroconf

from protos.discovery import SERVICE_TYPE, WorkerRecord
from tests.worker.conftest import StartWorker
from tests.worker.driver import ROOT, worker_command

SEEN_TIMEOUT_S = 60


class Onlooker(ServiceListener):
    """Sees workers come and go on the loopback interface."""

    def __init__(self, zeroconf: Zeroconf) -> None:
        self.zeroconf = zeroconf
        self.there: dict[str, WorkerRecord] = {}
        self.changed = threading.Condition()
        self.browser = ServiceBrowser(zeroconf, SERVICE_TYPE, self)

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name)
        if info is None or info.port is None:
            return
        record = WorkerRecord.from_properties(info.properties, host=info.parsed_addresses()[0], port=info.port)
        with self.changed:
            self.there[record.name] = record
            self.changed.notify_all()

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        with self.changed:
            self.there.pop(name.removesuffix(f".{SERVICE_TYPE}"), None)
            self.changed.notify_all()

    def wait_for(self, name: str, *, there: bool) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: (name in self.there) is there, SEEN_TIMEOUT_S), self.there


@pytest.fixture
def onlooker() -> Iterator[Onlooker]:
    zeroconf = Zeroconf(interfaces=["127.0.0.1"])
    onlooker = Onlooker(zeroconf)
    yield onlooker
    onlooker.browser.cancel()
    zeroconf.close()


def test_a_worker_is_found_with_what_it_is_and_says_goodbye(start_worker: StartWorker, onlooker: Onlooker) -> None:
    worker = start_worker("--name", "found-me", mdns=True)
    onlooker.wait_for("found-me", there=True)
    record = onlooker.there["found-me"]
    assert record.address == worker.address
    assert (record.contract_version, record.device) == ("1", "CPU")
    assert record.llama_cpp == worker.ready["llama_cpp"]
    worker.stop()
    onlooker.wait_for("found-me", there=False)


def test_a_second_worker_of_a_given_name_is_one_sentence(start_worker: StartWorker) -> None:
    start_worker("--name", "only-one", mdns=True)
    # Long enough that the first is no longer announcing itself.
    time.sleep(1.5)
    result = subprocess.run(
        worker_command("--name", "only-one"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "only-one" in result.stderr
    assert "--name" in result.stderr


def test_workers_without_a_given_name_are_numbered(start_worker: StartWorker) -> None:
    first = start_worker(mdns=True)
    second = start_worker(mdns=True)
    assert first.name != second.name
    # There may be others on this network.
    assert re.fullmatch(re.escape(re.sub(r"-\d+$", "", first.name)) + r"-\d+", second.name)


def test_without_mdns_nothing_is_announced(start_worker: StartWorker, onlooker: Onlooker) -> None:
    start_worker("--name", "shy")
    start_worker("--name", "bold", mdns=True)
    onlooker.wait_for("bold", there=True)
    assert "shy" not in onlooker.there


@pytest.mark.netns
def test_where_there_is_no_multicast_it_says_so_and_serves() -> None:
    # A network namespace of its own, with nothing in it that is up.
    own = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    process = subprocess.Popen(
        [*own, *worker_command("--name", "alone")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("worker alone ready on 127.0.0.1:")
    process.terminate()
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == 0
    assert complaints.count("\n") == 1
    assert complaints.startswith("mDNS does not work here (")
    assert "--worker" in complaints
