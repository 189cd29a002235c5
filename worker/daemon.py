# SPDX-License-Identifier: MIT
"""The daemon: starts everything in order, serves until told to stop, ends everything in the reverse order.

Runs on the main thread, which alone gets signals: the first one drains, the same once more forces.
"""

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import grpc

from native import Device, LibraryMismatchError, versions
from protos.caravan.v1 import control_pb2_grpc, frame_pb2_grpc
from protos.channels import PLAIN, Channels
from protos.cluster import cluster_path, load_cluster
from protos.contract import CONTRACT_VERSION, channel_options
from protos.discovery import WorkerRecord
from protos.last_words import unpacked
from protos.secret_file import SecretFileError
from protos.slate import Slate
from worker.announce import Announcer, NoMulticastError, machine_addresses
from worker.benchmark import Benchmarks
from worker.benchmark_store import BenchmarkStore, benchmark_folder
from worker.cards import Place, find_place
from worker.control import ControlServicer
from worker.description import Description, check_name, default_name, describe
from worker.errors import EngineMismatchError, IdentityError, PortError
from worker.held import Held
from worker.holder import Holder
from worker.holdings import Holdings
from worker.line import LineServicer
from worker.listening import Endpoint, check_allowed
from worker.memory import UNLIMITED, MemoryLimits
from worker.model_files import ModelFiles
from worker.parent import watch_parent
from worker.stage_loader import StageLoader
from worker.telemetry import Telemetry
from worker.weights.files import LocalFiles
from worker.weights.internet import Internet
from worker.weights.lending import Lending
from worker.weights.offers import Offers
from worker.weights.port import WeightsPort
from worker.weights.store import ModelStore, models_folder
from worker.weights.supply import Supply

_LOG = logging.getLogger(__name__)

# A Feed, a Collect and a Load take a thread each for as long as they last, all other calls for milliseconds; the
# rest is for callers that are refused or wait while a stage connects.
_N_THREADS = 32
# gRPC fixes a server's limit before any session is known; each session's own, lower one is checked against its shapes.
# 256 MiB hold a batch of 512 tokens of 8192 floats sixteen times.
MESSAGE_LIMIT_BYTES = 256 << 20
# How long frames that are here may still be computed after the first signal.
_DRAIN_S = 5.0
# For calls to send their last status.
_GRACE_S = 1.0
# Python handles signals on the main thread alone, and the system may wake another one for them, as it does just after
# a SIGCONT: the main thread looks up this often.
_LOOK_UP_S = 0.5
# Everything orderly is done by then; what hangs is cut off.
_SHUTDOWN_LIMIT_S = 15
_CLUSTER_CHANGED = "this machine's cluster has changed"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says. None: chosen here. `device` may be cards joined by commas, which share each stage by
    `split`."""

    endpoint: Endpoint
    device: str | None = None
    split: str = "auto"
    name: str | None = None
    limits: MemoryLimits = UNLIMITED
    model_folders: tuple[Path, ...] = ()
    cache_bytes: int | None = None
    keep_loaded_s: float = 0.0
    use_mdns: bool = True
    insecure: bool = False
    n_threads: int | None = None
    use_internet: bool = True
    parent_pid: int | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is to say once it serves."""

    name: str
    address: str
    device: Device
    llama_cpp: str


class Daemon:
    """One worker process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # SimpleQueue.put may be called from a signal handler: it is reentrant.
        self._stops: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._announcer: Announcer | None = None
        self._channels = PLAIN
        self._slate = Slate.of_this_process()
        # What is to be closed at the end, last made first.
        self._made = contextlib.ExitStack()

    def run(self, say_ready: Callable[[Ready], None]) -> bool:
        """Serves until a signal, or until the parent is gone; or until this machine's cluster is another one: then
        True, for it is to start again.

        Raises:
            StartError: it cannot start; nothing is left behind.
        """
        self._catch_signals()
        settings = self._settings
        membership = _Membership()
        self._channels = PLAIN if settings.insecure else _channels()
        check_allowed(settings.endpoint, is_member=self._channels.is_secure, insecure=settings.insecure)
        place = _find_place(settings)
        device = place.device()
        server = _make_server()
        port = _bind(server, settings.endpoint, self._channels)
        hosts = settings.endpoint.hosts() or machine_addresses()
        try:
            # Connections wait at the port until the server starts, so it may be announced before.
            about = self._announce(self._describe(device), device, hosts, port)
            holdings = self._serve(server, about, place)
            if settings.parent_pid is not None:
                watch_parent(settings.parent_pid, lambda: self._stops.put("the parent is gone"))
            if self._stops.empty():
                address = Endpoint(hosts[0], port).address()
                say_ready(Ready(about.name, address, holdings.line.device(), about.engine.llama_cpp))
            # Who reaches nobody beyond this machine need not go: nobody who is a member no more reaches it.
            is_watchful = self._channels.is_secure and not settings.endpoint.is_loopback()
            reason = self._wait_to_stop(membership if is_watchful else None)
            _LOG.info("stopping: %s", reason)
            _limit_shutdown()
            self._goodbye()
            holdings.drain(_DRAIN_S)
            server.stop(_GRACE_S).wait()
            holdings.close()
            return reason == _CLUSTER_CHANGED
        finally:
            self._goodbye()
            server.stop(0)
            self._made.close()

    def _catch_signals(self) -> None:
        seen: set[int] = set()

        def stop(number: int, _frame: object) -> None:
            # Ctrl-C goes to a coordinator and its workers alike, and then the coordinator says SIGTERM: that is no
            # second Ctrl-C.
            if number in seen:
                os._exit(1)
            seen.add(number)
            self._stops.put(signal.Signals(number).name)

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)

    def _wait_to_stop(self, membership: "_Membership | None") -> str:
        """Blocks until there is a reason to stop, and gives it."""
        while True:
            if membership is not None and membership.has_changed():
                return _CLUSTER_CHANGED
            with contextlib.suppress(queue.Empty):
                return self._stops.get(timeout=_LOOK_UP_S)

    def _describe(self, device: Device) -> Description:
        """This process under the name it would like. Raises BadNameError."""
        name = self._settings.name
        if name is not None:
            check_name(name)
        return describe(name or default_name(device.name), unpacked(self._slate.ends))

    def _announce(self, about: Description, device: Device, hosts: list[str], port: int) -> Description:
        """Shows the worker on the LAN, if it may; the description under the name that was free.

        Raises:
            NameTakenError: it is not, and it was asked for.
        """
        if not self._settings.use_mdns:
            return about
        record = WorkerRecord(
            name=about.name,
            instance_id=about.instance_id,
            host=hosts[0],
            port=port,
            contract_version=CONTRACT_VERSION,
            llama_cpp=about.engine.llama_cpp,
            device=device.name,
            cluster=self._channels.fingerprint,
        )
        try:
            self._announcer = Announcer(loopback_only=self._settings.endpoint.is_loopback())
            shown = self._announcer.announce(record, hosts, may_change=self._settings.name is None)
        except NoMulticastError as error:
            self._do_without_mdns(error)
            return about
        return replace(about, name=shown.name)

    def _serve(self, server: grpc.Server, about: Description, place: Place) -> Holdings:
        store = ModelStore(models_folder(), self._settings.cache_bytes)
        self._made.callback(store.close)
        models = ModelFiles(LocalFiles(self._settings.model_folders, store.folder), store)
        offers = Offers(store, models.files)
        port = WeightsPort(self._settings.endpoint, Lending(store, models.files, offers).open, self._channels)
        self._made.callback(port.close)
        if port.is_displaced and not self._settings.endpoint.is_loopback():
            _say_displaced(self._settings.endpoint, port.port)
        # Who is alone with this machine may have its own servers read.
        internet = Internet(
            is_allowed=self._settings.use_internet, may_read_itself=self._settings.endpoint.is_loopback()
        )
        supply = Supply(models, offers, port, internet)

        def make_holder(held: Held, beside: Held, slate: Slate, keep_loaded_s: float) -> Holder:
            return Holder(
                held,
                place=place,
                files=models,
                loader=StageLoader(place, self._settings.limits, supply, slate, beside),
                message_limit_bytes=MESSAGE_LIMIT_BYTES,
                keep_loaded_s=keep_loaded_s,
                channels=self._channels,
            )

        line, draft = Held(about.name), Held(about.name)
        holdings = Holdings(
            line=make_holder(line, draft, self._slate, self._settings.keep_loaded_s),
            # Kept warm it would be in the way of lines that have no use for it; small models load quickly.
            draft=make_holder(draft, line, Slate.private(), 0.0),
        )
        benchmarks = Benchmarks(holdings.line, BenchmarkStore(benchmark_folder()))
        telemetry = Telemetry(place.names)
        control = ControlServicer(
            holdings, benchmarks, offers, about, self._settings.n_threads, telemetry, port.port, self._channels
        )
        control_pb2_grpc.add_ControlServiceServicer_to_server(control, server)
        frame_pb2_grpc.add_LineServiceServicer_to_server(LineServicer(holdings), server)
        server.start()
        return holdings

    def _do_without_mdns(self, error: NoMulticastError) -> None:
        print(
            f"mDNS does not work here ({error}), so nobody finds this worker by itself; name its address to the"
            " coordinator with --worker",
            file=sys.stderr,
        )
        self._goodbye()

    def _goodbye(self) -> None:
        announcer, self._announcer = self._announcer, None
        if announcer is not None:
            announcer.close()


class _Membership:
    """Whether this machine is a member of the cluster that it was a member of when this was made."""

    def __init__(self) -> None:
        self._before = self._mark()

    def has_changed(self) -> bool:
        """Looks at the file: it is replaced, never rewritten."""
        return self._mark() != self._before

    def _mark(self) -> tuple[int, int] | None:
        try:
            about = cluster_path().stat()
        except OSError:
            return None
        return about.st_ino, about.st_mtime_ns


def _limit_shutdown() -> None:
    """Whatever hangs from here on, the process does not."""
    limit = threading.Timer(_SHUTDOWN_LIMIT_S, os._exit, args=(1,))
    limit.daemon = True
    limit.start()


def _say_displaced(endpoint: Endpoint, port: int) -> None:
    print(
        f"port {endpoint.port + 1}, the one after that of --listen, is in use, so weights go by port {port} until this"
        " worker starts again: a firewall has to let in that one; or choose another with --listen",
        file=sys.stderr,
    )


def _channels() -> Channels:
    try:
        return Channels(load_cluster())
    except SecretFileError as error:
        raise IdentityError(str(error)) from error


def _find_place(settings: Settings) -> Place:
    try:
        versions()
        return find_place(settings.device, settings.split, settings.limits.reserve_bytes)
    except LibraryMismatchError as error:
        raise EngineMismatchError(str(error)) from error


def _make_server() -> grpc.Server:
    return grpc.server(
        ThreadPoolExecutor(max_workers=_N_THREADS, thread_name_prefix="call"),
        options=channel_options(MESSAGE_LIMIT_BYTES),
    )


def _bind(server: grpc.Server, endpoint: Endpoint, channels: Channels) -> int:
    """The port that the server got.

    Raises:
        PortError: it cannot have that one.
    """
    try:
        port = channels.bind(server, endpoint.address())
    except RuntimeError as error:
        port = 0
        reason: Exception | None = error
    else:
        reason = None
    if port == 0:
        raise PortError(
            f"cannot listen on {endpoint.address()}: the port is in use, or the address is not this machine's;"
            " choose another with --listen, or port 0 for any free one"
        ) from reason
    return port
