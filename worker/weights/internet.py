# SPDX-License-Identifier: MIT
"""Whether this worker reads weights from their servers itself, and which it may reach. One for all loads; any thread.

A coordinator says what is to be read, so a worker is careful where it goes: to http and https, and to no address that
only its own machine should reach. What is in the house is allowed: models lie on drives there.
"""

import ipaddress
import ssl
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from worker.weights.address import Address

if TYPE_CHECKING:
    import httpx2

# Who has no way to the server is to notice it soon: the coordinator may have one.
CONNECT_S = 4.0
_SILENCE_S = 15.0
# A load soon after one that found no way does not look for it again.
_NO_WAY_S = 60.0


class ForbiddenAddressError(Exception):
    """A server's name leads to where a worker does not go; says so."""


class Internet:
    """As its owner allows it."""

    def __init__(self, *, is_allowed: bool = True, may_read_itself: bool = False) -> None:
        """`may_read_itself`: whether servers on this very machine are allowed, as for a worker that nobody else can
        reach."""
        self._is_allowed = is_allowed
        self._may_read_itself = may_read_itself
        self._lock = threading.Lock()
        self._no_way_until: dict[str, float] = {}
        self._ssl: ssl.SSLContext | None = None

    def may_try(self, addresses: Sequence[Address]) -> bool:
        """Whether to read from all of these."""
        now = time.monotonic()
        with self._lock:
            return self._is_allowed and all(now >= self._no_way_until.get(each.server, now) for each in addresses)

    def note_no_way(self, address: Address) -> None:
        """That one cannot be reached."""
        with self._lock:
            self._no_way_until[address.server] = time.monotonic() + _NO_WAY_S

    def client(self) -> "httpx2.Client":
        """For one thread, which closes it. Goes by the proxies that are set in the environment."""
        # Imported where it is used: most workers never read anything themselves.
        import httpx2

        with self._lock:
            if self._ssl is None:
                self._ssl = httpx2.create_ssl_context()
        return httpx2.Client(
            verify=self._ssl,
            timeout=httpx2.Timeout(_SILENCE_S, connect=CONNECT_S),
            limits=httpx2.Limits(max_connections=1),
            headers={"User-Agent": "llama-caravan"},
        )

    def check(self, host: str, port: int, address: str) -> None:
        """Whether to go on with a server of that name, now that it turned out to be at `address`. A proxy that this
        machine's owner has set may be anywhere, and decides for itself.

        Raises:
            ForbiddenAddressError: no.
        """
        if (host.lower(), port) in _proxies():
            return
        found = ipaddress.ip_address(address.partition("%")[0])
        found = getattr(found, "ipv4_mapped", None) or found
        is_own = found.is_loopback and not self._may_read_itself
        # Link-local ones are those of machines' own services, too: in a data centre they hand out keys.
        if is_own or found.is_link_local or found.is_multicast or found.is_unspecified:
            raise ForbiddenAddressError(f"{host} is {found}, from where a worker reads no weights")


def _proxies() -> set[tuple[str, int]]:
    """Those of the environment, as httpx2 goes by them: host and port."""
    found = set()
    for scheme in ("http", "https", "all"):
        address = getproxies().get(scheme, "")
        try:
            parts = urlsplit(address if "://" in address else f"http://{address}")
            found.add(((parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)))
        except ValueError:
            continue
    return found
