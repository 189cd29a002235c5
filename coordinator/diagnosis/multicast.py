# SPDX-License-Identifier: MIT
"""Whether mDNS can work from here: UDP port 5353 can be listened on, and what this machine sends to mDNS's group comes
back to it, on each of its interfaces. Whether the network between machines passes it on only a second machine can tell.

Source: RFC 6762, sections 3 (group and port) and 15.1 (sharing the port with others).
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence

import ifaddr

from coordinator.diagnosis.finding import Finding, Verdict

_GROUP = "224.0.0.251"
_PORT = 5353
_TTL = 255
_PATIENCE_S = 0.5
"""It never leaves this machine; a busy one may take a while."""
_PACKET_BYTES = 9000

_REMEDY = "allow UDP port 5353 in this machine's firewall, or name workers with --worker HOST:PORT"


def multicast_finding() -> Finding:
    """What there is to say of it; blocks for half a second at most."""
    addresses = ipv4_addresses()
    try:
        heard = heard_on(addresses)
    except OSError as error:
        text = f"UDP port {_PORT} cannot be listened on ({error.strerror or error}), so no worker is found by itself"
        return Finding(
            "mDNS", Verdict.NOTE, text, f"end the program that has it alone, or {_REMEDY.partition(', or ')[2]}"
        )
    silent = [address for address in addresses if address not in heard]
    if heard and not silent:
        return Finding("mDNS", Verdict.GOOD, f"UDP port {_PORT} is heard on {', '.join(addresses)}")
    text = f"what is sent to UDP port {_PORT} is not heard on {', '.join(silent) or 'any interface'}"
    return Finding("mDNS", Verdict.NOTE, text, _REMEDY)


def ipv4_addresses() -> list[str]:
    """Of this machine's interfaces, loopback among them."""
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    return sorted(found, key=ipaddress.IPv4Address)


def heard_on(addresses: Sequence[str], port: int = _PORT) -> set[str]:
    """Those of the addresses from which a question to mDNS's group comes back to this machine.

    Raises:
        OSError: the port cannot be listened on.
    """
    questions = {_question(): address for address in addresses}
    heard: set[str] = set()
    with _listening(addresses, port) as ears:
        for question, address in questions.items():
            with contextlib.suppress(OSError):
                _send(question, address, port)
        until = time.monotonic() + _PATIENCE_S
        while len(heard) < len(questions) and (left_s := until - time.monotonic()) > 0:
            if select.select([ears], [], [], left_s)[0]:
                heard |= {questions[packet] for packet in [ears.recv(_PACKET_BYTES)] if packet in questions}
    return heard


@contextlib.contextmanager
def _listening(addresses: Sequence[str], port: int) -> Iterator[socket.socket]:
    """A socket on the port, which others may share, in the group on every interface that has multicast."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
        ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ears.bind(("", port))
        for address in addresses:
            with contextlib.suppress(OSError):
                group = socket.inet_aton(_GROUP) + socket.inet_aton(address)
                ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        yield ears


def _send(question: bytes, address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, _TTL)
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        mouth.sendto(question, (_GROUP, port))


def _question() -> bytes:
    """A DNS message that asks for the address of a name that nobody has: no other message is like it."""
    labels = (secrets.token_hex(8), "caravan-doctor", "local")
    name = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
    header = struct.pack("!6H", 0, 0, 1, 0, 0, 0)
    return header + name + struct.pack("!2H", 1, 1)
