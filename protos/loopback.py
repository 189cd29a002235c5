# SPDX-License-Identifier: MIT
"""Whether an address stays on this machine, where nothing need be encrypted. Coordinator and workers ask alike."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether only this machine is reached at that host, a name or a number; names are looked up, which may block. True
    for what has no address: whoever tries to use it will fail and say so."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a label of more than 63 letters is no name
        return True
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)
