# SPDX-License-Identifier: MIT
"""Whose a request is, for fairness and limits: the machine that it came from.

Nothing that a client may write as it likes counts, or a limit would be evaded with a new name each time: neither
OpenAI's `user` field nor X-Forwarded-For (unless `server` was told whom to believe). Nor does an API key, which several
machines may share. Called by the routes, for each request.
"""

from __future__ import annotations

import ipaddress

from fastapi import Request

_LOCAL = "this machine"
_V6_PREFIX = 64
"""Bits that a network assigns; the rest a machine chooses itself, and may change for each connection. Only these
count of public addresses; all count of a house's own ones, whose machines share their prefix."""


def client_of(request: Request) -> str:
    """A name for the machine at the other end."""
    return _LOCAL if request.client is None else client_at(request.client.host)


def client_at(host: str) -> str:
    """A name for the machine with this address; programs of this machine, which may take any of its loopback
    addresses, are one client."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            if address.is_global:
                return str(ipaddress.ip_network((address, _V6_PREFIX), strict=False))
            return _LOCAL if address.is_loopback else str(address)
        address = address.ipv4_mapped
    return _LOCAL if address.is_loopback else str(address)
