# SPDX-License-Identifier: MIT
"""Shows the worker on the LAN by mDNS and says goodbye when it leaves. The one module that knows zeroconf.

Called on the main thread; zeroconf answers queries on a thread of its own. A name is claimed first (RFC 6762,
section 8.1) and shown when the worker can be reached.
"""

import asyncio
import concurrent.futures
import ipaddress
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import ifaddr
from zeroconf import (
    DNSQuestionType,
    InterfaceChoice,
    NonUniqueNameException,
    ServiceBrowser,
    ServiceInfo,
    Zeroconf,
)
from zeroconf import Error as ZeroconfError

from protos.discovery import SERVICE_TYPE, WorkerRecord
from worker.errors import NameTakenError

T = TypeVar("T")

# zeroconf probes for 1.0 to 1.3 s; a busy machine may take several times that.
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
            raise NoMulticastError(str(error) or type(error).__name__) from error
        # Asks by multicast who is there. Probes ask for unicast answers, and where several processes share port
        # 5353 those reach only one of them; answers to this are heard by all, so that a taken name is noticed.
        self._browser = ServiceBrowser(
            self._zeroconf, SERVICE_TYPE, handlers=[_ignore], question_type=DNSQuestionType.QM
        )

    def claim(self, name: str, *, may_change: bool) -> str:
        """Takes a name that nobody on the LAN has; blocks for about a second, more if names are taken.

        Returns:
            `name`, or with `may_change` the first of name-2, name-3 and so on that is free.

        Raises:
            NameTakenError: it is taken.
            NoMulticastError: nothing can be sent.
        """
        for number in range(1, _MAX_NUMBER):
            candidate = name if number == 1 else f"{name}-{number}"
            try:
                self._run(self._zeroconf.async_check_service(_probe(candidate), allow_name_change=False))
            except NonUniqueNameException:
                if not may_change:
                    break
            else:
                return candidate
        raise NameTakenError(f"another worker on this network is named {name}; give this one another name with --name")

    def show(self, record: WorkerRecord, hosts: list[str]) -> None:
        """Announces the record, reachable at `hosts`; the name must have been claimed.

        Raises:
            NoMulticastError: nothing can be sent.
        """
        info = ServiceInfo(
            SERVICE_TYPE,
            record.service_name,
            port=record.port,
            properties=record.to_properties(),
            server=f"{record.name}.local.",
            addresses=[ipaddress.ip_address(host.split("%")[0]).packed for host in hosts],
        )
        self._run(self._zeroconf.async_register_service(info, cooperating_responders=True))

    def close(self) -> None:
        """Says goodbye, if anything was shown, and ends zeroconf's thread; takes a quarter of a second."""
        self._browser.cancel()
        self._zeroconf.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        loop = self._zeroconf.loop
        assert loop is not None, "a Zeroconf that was constructed has a loop"
        try:
            return asyncio.run_coroutine_threadsafe(work, loop).result(_TIMEOUT_S)
        except NonUniqueNameException:
            raise
        except (OSError, ZeroconfError, TimeoutError, concurrent.futures.TimeoutError) as error:
            raise NoMulticastError(str(error) or type(error).__name__) from error


def machine_addresses() -> list[str]:
    """This machine's numeric addresses on its networks; the loopback one if it is on none."""
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    # ifaddr gives an IPv6 address as (address, flow, scope); link-local ones mean nothing without our own scope.
    addresses = [ipaddress.ip_address(a if isinstance(a, str) else a[0]) for a in found]
    outside = [a for a in addresses if not (a.is_loopback or a.is_link_local)]
    return [str(a) for a in sorted(outside, key=lambda a: a.version)] or ["127.0.0.1"]


def _probe(name: str) -> ServiceInfo:
    """Enough of a record to ask for its name."""
    return ServiceInfo(
        SERVICE_TYPE,
        f"{name}.{SERVICE_TYPE}",
        port=1,
        server=f"{name}.local.",
        addresses=[socket.inet_aton("127.0.0.1")],
    )


def _ignore(**_event: object) -> None:
    """The cache is what is wanted of browsing."""
