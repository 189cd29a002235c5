# SPDX-License-Identifier: MIT
"""Where a worker listens: the address as given, whether it stays on this machine, and what others call it."""

import socket
from dataclasses import dataclass

from protos.loopback import is_loopback
from worker.errors import NotLoopbackError

_WILDCARDS = ("", "0.0.0.0", "::", "*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """HOST:PORT of `--listen`, with PORT for calls, and the one after it for weights; port 0 means any free ones."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """From "HOST:PORT" or "[IPV6]:PORT".

        Raises:
            ValueError: it is neither; says so.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} is no HOST:PORT; write an IPv6 address in brackets")
        if not colon or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
            raise ValueError(f"{text!r} is no HOST:PORT, like 127.0.0.1:0")
        return cls("0.0.0.0" if host in ("", "*") else host, int(port))

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every interface."""
        return self.host in _WILDCARDS

    def address(self, port: int | None = None) -> str:
        """As gRPC writes it, with another port if given."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port if port is None else port}"

    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; names are looked up."""
        return not self.is_wildcard and is_loopback(self.host)

    def hosts(self) -> list[str]:
        """The numeric addresses it stands for; none for a wildcard, which is every address of this machine."""
        if self.is_wildcard:
            return []
        found = socket.getaddrinfo(self.host, None, proto=socket.IPPROTO_TCP)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_allowed(endpoint: Endpoint, *, is_member: bool, insecure: bool) -> None:
    """Raises NotLoopbackError if it would open this machine to anybody on the network without being told to."""
    if not insecure and not is_member and not endpoint.is_loopback():
        raise NotLoopbackError(
            f"{endpoint.address()} can be reached from other machines, and this one is a member of no cluster, so"
            " nothing checks who calls: make or join one with `caravan cluster create` or `join`,"
            " or add --insecure if everybody on that network may use this worker"
        )
