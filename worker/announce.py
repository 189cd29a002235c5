# SPDX-License-Identifier: MIT
"""Shows the worker on the LAN by mDNS and says goodbye when it leaves. The one module that knows zeroconf.

Called on the main thread; zeroconf's own thread sends and answers. Source: RFC 6762, section 8 (probing, announcing,
conflicts).
"""

import asyncio
import concurrent.futures
import ipaddress
import random
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import ifaddr
from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, ServiceInfo, Zeroconf

from protos.discovery import SERVICE_TYPE, WorkerRecord
from worker.errors import NameTakenError

T = TypeVar("T")

# RFC 6762, section 8.1: three probes, 250 ms apart, after a random wait of up to as much.
_N_PROBES = 3
_PROBE_S = 0.25
# Two workers that probed at the very same time hear each other's announcement within this, on one host or one LAN.
_SETTLE_S = 0.1
# A busy machine may take several times the second that all of this takes.
_TIMEOUT_S = 10.0
# Workers of one host with the same default name: "desk-CPU", "desk-CPU-2" and so on.
_MAX_NUMBER = 100


class NoMulticastError(Exception):
    """mDNS cannot work here; the worker can do without."""


class Announcer:
    """One worker's presence on the LAN, or on the loopback interface only."""

    def __init__(self, *, loopback_only: bool) -> None:
        """Opens the sockets.

        Raises:
            NoMulticastError: there is no multicast here.
        """
        interfaces = ["127.0.0.1"] if loopback_only else InterfaceChoice.All
        try:
            self._zeroconf = Zeroconf(interfaces=interfaces)
        except (OSError, ZeroconfError, RuntimeError) as error:
            raise _no_multicast(error) from error

    def announce(self, record: WorkerRecord, hosts: list[str], *, may_change: bool) -> WorkerRecord:
        """Takes a name that nobody on the LAN has and shows the record under it; blocks for about a second.

        Args:
            record: the worker under the name it wants.
            hosts: the numeric addresses it can be reached at.
            may_change: whether the first free one of name-2, name-3 and so on will do.

        Returns:
            The record as it is shown.

        Raises:
            NameTakenError: the name is taken.
            NoMulticastError: nothing can be sent.
        """
        for number in range(1, _MAX_NUMBER if may_change else 2):
            name = record.name if number == 1 else f"{record.name}-{number}"
            wanted = replace(record, name=name)
            if self._run(self._take(wanted, hosts)):
                return wanted
        raise NameTakenError(
            f"another worker on this network is named {record.name}; give this one another name with --name"
        )

    def close(self) -> None:
        """Says goodbye, if anything is shown, and ends zeroconf's thread; takes a quarter of a second."""
        self._zeroconf.close()

    async def _take(self, record: WorkerRecord, hosts: list[str]) -> bool:
        """In zeroconf's loop: probes for the name and shows the record; False if another worker has the name."""
        info = _service_info(record, hosts)
        await asyncio.sleep(random.uniform(0, _PROBE_S))
        for _ in range(_N_PROBES):
            # An answer names all workers there are: the next name may be known to be taken before it is asked for.
            if self._is_taken(info):
                return False
            self._probe(info)
            await asyncio.sleep(_PROBE_S)
        if self._is_taken(info):
            return False
        broadcasting = await self._zeroconf.async_register_service(info, cooperating_responders=True)
        await asyncio.sleep(_SETTLE_S)
        if any(rival > record.instance_id for rival in self._instances(info.name)):
            # Taken back without a goodbye, which would be the other's, too.
            asyncio.ensure_future(broadcasting).cancel()
            self._zeroconf.registry.async_remove(info)
            return False
        return True

    def _is_taken(self, info: ServiceInfo) -> bool:
        """Whether a worker of that name has been heard of."""
        return self._zeroconf.cache.current_entry_with_name_and_alias(info.type, info.name) is not None

    def _probe(self, info: ServiceInfo) -> None:
        """Asks who has the name, to be answered by multicast.

        zeroconf's own probes want unicast answers, and of several processes that share port 5353 only one gets those.
        """
        query = self._zeroconf.generate_service_query(info)
        for question in query.questions:
            question.unicast = False
        self._zeroconf.async_send(query)

    def _instances(self, service_name: str) -> list[str]:
        """The instance ids of every worker that has announced itself under the name."""
        entries = self._zeroconf.cache.entries_with_name(service_name)
        texts = [getattr(entry, "text", None) for entry in entries]
        infos = [ServiceInfo(SERVICE_TYPE, service_name, properties=text) for text in texts if text]
        return [(info.properties.get(b"instance") or b"").decode(errors="replace") for info in infos]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        loop = self._zeroconf.loop
        assert loop is not None, "a Zeroconf that was constructed has a loop"
        try:
            return asyncio.run_coroutine_threadsafe(work, loop).result(_TIMEOUT_S)
        except (OSError, ZeroconfError, TimeoutError, concurrent.futures.TimeoutError) as error:
            raise _no_multicast(error) from error


def machine_addresses() -> list[str]:
    """This machine's numeric addresses on its networks; the loopback one if it is on none."""
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    # ifaddr gives an IPv6 address as (address, flow, scope); link-local ones mean nothing without our own scope.
    addresses = [ipaddress.ip_address(a if isinstance(a, str) else a[0]) for a in found]
    outside = [a for a in addresses if not (a.is_loopback or a.is_link_local)]
    return [str(a) for a in sorted(outside, key=lambda a: a.version)] or ["127.0.0.1"]


def _service_info(record: WorkerRecord, hosts: list[str]) -> ServiceInfo:
    return ServiceInfo(
        SERVICE_TYPE,
        record.service_name,
        port=record.port,
        properties=record.to_properties(),
        server=f"{record.name}.local.",
        addresses=[ipaddress.ip_address(host.split("%")[0]).packed for host in hosts],
    )


def _no_multicast(error: Exception) -> NoMulticastError:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return NoMulticastError(said or type(error).__name__)
