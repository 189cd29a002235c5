# SPDX-License-Identifier: MIT
"""Who is there: workers that show themselves by mDNS and workers given by address, each asked who it is, sorted into
those that can take part and those left out with the reason. The one module that knows zeroconf on this side; used when
a mesh opens and by `caravan nodes`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from coordinator.control import DESCRIBE_TIMEOUT_S, WorkerClient
from coordinator.errors import CaravanError, DuplicateNameError, IdentityError, VersionMismatchError
from coordinator.membership import note_members, own_channels
from coordinator.workers import BuildVersions, FoundWorker, LeftOutWorker
from native import Versions, versions
from protos.channels import Channels
from protos.contract import CONTRACT_VERSION
from protos.discovery import SERVICE_TYPE, RecordError, WorkerRecord
from protos.loopback import is_loopback

_LOG = logging.getLogger(__name__)

_RESOLVE_TIMEOUT_S = 1.0
"""From a service's name to its address; usually both came in one packet."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """Who was found.

    Attributes:
        found: Workers that can take part: first those given by address in that order, then the others by name.
        left_out: Workers and addresses that cannot, each with its error.
        n_strangers: Workers heard of that say to be of another cluster, or of one where we are of none; they were not
            talked to.
    """

    found: tuple[FoundWorker, ...]
    left_out: tuple[LeftOutWorker, ...]
    n_strangers: int = 0


async def discover(
    addresses: Sequence[str] = (),
    *,
    channels: Channels | None = None,
    insecure: bool = False,
    mdns: bool = True,
    timeout_s: float = 2.0,
    wanted: int | None = None,
    own: Versions | None = None,
    telemetry: bool = True,
    answer_timeout_s: float = DESCRIBE_TIMEOUT_S,
) -> Discovery:
    """Finds workers.

    Args:
        addresses: ``host:port`` of workers to ask in any case.
        channels: How to reach them; None: as a member of this machine's cluster, if it is in one. Else only workers of
            this machine are talked to.
        insecure: Others too, and no members.
        mdns: Whether to listen for others, on all interfaces with loopback.
        timeout_s: How long to listen.
        wanted: Stop listening when so many that can take part are known.
        own: The build that workers must have; None: this process's.
        telemetry: Whether to ask for what the drivers of their cards tell, which may take a tenth of a second.
        answer_timeout_s: How long each of them has to answer.

    Raises:
        DuplicateNameError: Two workers that can take part have one name.
        IdentityError: The file of this machine's cluster cannot be used.
    """
    channels = channels or own_channels(insecure=insecure)
    asking = _Asking(own or versions(), channels, insecure, telemetry, answer_timeout_s)
    search = _Search(asking, given=tuple(dict.fromkeys(addresses)))
    try:
        if mdns:
            async with _browsing(search.hear):
                await search.wait(timeout_s, wanted)
        found = replace(_sort(*await search.answers()), n_strangers=search.n_strangers)
        await asyncio.to_thread(note_members, channels, found.found)
        return found
    finally:
        await search.stop()


_Answer: TypeAlias = FoundWorker | LeftOutWorker


@dataclass(frozen=True, slots=True)
class _Asking:
    """How workers are asked who they are."""

    own: Versions
    channels: Channels
    insecure: bool
    telemetry: bool
    answer_timeout_s: float


class _Search:
    """The questions under way: one per address given, one per record heard."""

    def __init__(self, asking: _Asking, given: Sequence[str]) -> None:
        self._asking = asking
        self._strangers: set[str] = set()
        self._changed = asyncio.Event()
        self._asked: list[asyncio.Task[_Answer | None]] = []
        self._instances: set[str] = set()
        for address in given:
            self._start(self._ask(address))
        self._n_given = len(self._asked)

    def hear(self, records: Sequence[WorkerRecord]) -> None:
        """A worker shows itself, at one or more addresses."""
        if records[0].cluster != self._asking.channels.fingerprint:
            self._strangers.add(records[0].instance_id)
            return
        if records[0].instance_id not in self._instances:
            self._instances.add(records[0].instance_id)
            self._start(self._ask_any(records))

    @property
    def n_strangers(self) -> int:
        """How many were heard of that are not of our cluster."""
        return len(self._strangers)

    async def wait(self, timeout_s: float, wanted: int | None) -> None:
        """Returns after so long, or when `wanted` workers are known and every address given was asked."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._enough(wanted), timeout_s)

    async def answers(self) -> tuple[list[_Answer], list[_Answer]]:
        """What those given by address said, in the order given, and what the others said."""
        answers = await asyncio.gather(*self._asked)
        given, heard = answers[: self._n_given], answers[self._n_given :]
        return [answer for answer in given if answer], [answer for answer in heard if answer]

    async def stop(self) -> None:
        """Drops what is still under way."""
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _enough(self, wanted: int | None) -> None:
        while True:
            self._changed.clear()
            done = [task.result() for task in self._asked if task.done()]
            known = {answer.instance_id for answer in done if isinstance(answer, FoundWorker)}
            is_asked = all(task.done() for task in self._asked[: self._n_given])
            if wanted is not None and len(known) >= wanted and is_asked:
                return
            await self._changed.wait()

    def _start(self, question: Coroutine[object, object, _Answer | None]) -> None:
        task = asyncio.get_running_loop().create_task(question)
        task.add_done_callback(lambda _: self._changed.set())
        self._asked.append(task)

    async def _ask_any(self, records: Sequence[WorkerRecord]) -> _Answer | None:
        """Asks a worker at its addresses in turn. None: another worker answers there (a loopback address of another
        machine, say), so this one is not for us."""
        first = records[0]
        if first.contract_version != CONTRACT_VERSION:
            return LeftOutWorker(first.name, first.address, _other_contract(first.name, first.contract_version))
        answer: _Answer | None = None
        for record in records:
            answer = await self._ask(record.address, record.name)
            if not isinstance(answer, FoundWorker):
                continue
            if answer.instance_id == record.instance_id:
                return answer
            _LOG.debug("%s answers at %s, where %s says it is", answer.name, record.address, record.name)
            answer = None
        return answer

    async def _ask(self, address: str, name: str = "") -> _Answer:
        asking = self._asking
        if not (asking.channels.is_secure or asking.insecure or await asyncio.to_thread(_is_here, address)):
            return LeftOutWorker(name or address, address, _unprotected(address))
        client = WorkerClient(address, asking.channels, name)
        try:
            worker = await client.describe(asking.answer_timeout_s, telemetry=asking.telemetry)
        except CaravanError as error:
            return LeftOutWorker(name or address, address, error)
        finally:
            await client.close()
        mismatch = _mismatch(worker, asking.own)
        return LeftOutWorker(worker.name, address, mismatch) if mismatch else worker


def _is_here(address: str) -> bool:
    """Whether only this machine is reached at ``host:port``; blocks."""
    return is_loopback(address.rpartition(":")[0].strip("[]"))


def _unprotected(address: str) -> IdentityError:
    return IdentityError(
        f"{address} is another computer, and this one is a member of no cluster: join the other's with `caravan "
        "cluster join`, or say --insecure-workers if anybody on that network may be this worker, and read along"
    )


def _mismatch(worker: FoundWorker, own: Versions) -> VersionMismatchError | None:
    """Why this worker cannot be in one mesh with us; None if it can."""
    if worker.contract_version != CONTRACT_VERSION:
        return _other_contract(worker.name, worker.contract_version)
    theirs = worker.versions
    if _is_one_build(theirs, own):
        return None
    return VersionMismatchError(
        f"worker {worker.name} runs llama.cpp {theirs.llama_cpp} (llama-cpp-python {theirs.llama_cpp_python}) and this "
        f"coordinator {own.llama_cpp} (llama-cpp-python {own.llama_cpp_python}), and a mesh runs one build: "
        f"on the worker's machine, pip install llama-cpp-python=={own.llama_cpp_python}"
    )


def _is_one_build(theirs: BuildVersions, own: Versions) -> bool:
    if theirs.llama_cpp != own.llama_cpp:
        return False
    if theirs.ggml == own.ggml:
        return True
    # Compiled where there is no git, as in a container, ggml does not know its commit: the package's version says it.
    (their_ggml, _, their_commit), (own_ggml, _, own_commit) = theirs.ggml.partition(" "), own.ggml.partition(" ")
    return (
        "(unknown)" in (their_commit, own_commit)
        and their_ggml == own_ggml
        and theirs.llama_cpp_python == own.llama_cpp_python
    )


def _other_contract(name: str, version: str) -> VersionMismatchError:
    return VersionMismatchError(
        f"worker {name} speaks contract {version} and this coordinator {CONTRACT_VERSION}: "
        f"install the same llama-caravan on both machines"
    )


def _sort(given: Sequence[_Answer], heard: Sequence[_Answer]) -> Discovery:
    """Each worker once: where it was given by address, there; then the others, by name."""
    answers = [*given, *sorted(heard, key=lambda answer: answer.name)]
    found: dict[str, FoundWorker] = {}
    for answer in answers:
        if isinstance(answer, FoundWorker):
            found.setdefault(answer.instance_id, answer)
    names: dict[str, list[str]] = {}
    for worker in found.values():
        names.setdefault(worker.name, []).append(worker.address)
    for name, addresses in names.items():
        if len(addresses) > 1:
            raise DuplicateNameError(name, tuple(addresses))
    left_out = {(answer.name, answer.address): answer for answer in answers if isinstance(answer, LeftOutWorker)}
    return Discovery(tuple(found.values()), tuple(left_out.values()))


@contextlib.asynccontextmanager
async def _browsing(on_records: Callable[[Sequence[WorkerRecord]], None]) -> AsyncIterator[None]:
    """Listens for workers while the context lasts. Where multicast is not possible, nobody is heard."""
    try:
        zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
    except OSError as error:
        _LOG.warning("cannot listen for workers by mDNS: %s; name them by --worker HOST:PORT", error)
        yield
        return
    resolving: set[asyncio.Task[None]] = set()

    def on_change(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            return
        task = asyncio.get_running_loop().create_task(_resolve(zeroconf, service_type, name, on_records))
        resolving.add(task)
        task.add_done_callback(resolving.discard)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE_TYPE, handlers=[on_change])
    try:
        yield
    finally:
        await browser.async_cancel()
        for task in list(resolving):
            task.cancel()
        await asyncio.gather(*resolving, return_exceptions=True)
        await zeroconf.async_close()


async def _resolve(
    zeroconf: Zeroconf,
    service_type: str,
    name: str,
    on_records: Callable[[Sequence[WorkerRecord]], None],
) -> None:
    info = AsyncServiceInfo(service_type, name)
    if not await info.async_request(zeroconf, _RESOLVE_TIMEOUT_S * 1000) or info.port is None:
        return
    # Loopback last: where another address works too, neighbours on other machines need that one.
    hosts = sorted(info.parsed_addresses(), key=lambda host: ipaddress.ip_address(host).is_loopback)
    records = records_of(info.properties, hosts, info.port)
    if records:
        on_records(records)


def records_of(properties: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int) -> list[WorkerRecord]:
    """The records of one service, one per host it gives; none where the service is no worker of ours."""
    try:
        return [WorkerRecord.from_properties(properties, host=host, port=port) for host in hosts]
    except RecordError as error:
        _LOG.debug("ignoring an mDNS record from %s: %s", ", ".join(hosts), error)
        return []
