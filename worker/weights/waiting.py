# SPDX-License-Identifier: MIT
"""How long a connection for weights may wait: the system counts, so that no call of ours asks before each transfer."""

import socket
import ssl
import struct

# Source: struct timeval in socket(7), for SO_RCVTIMEO and SO_SNDTIMEO.
_TIMEVAL = struct.Struct("@ll")


def limit_waits(connection: socket.socket, *, receive_s: float, send_s: float) -> None:
    """Receiving and sending block, and raise BlockingIOError when nothing comes or goes for so long; TimeoutError where
    it is encrypted, after the longer of the two."""
    if isinstance(connection, ssl.SSLSocket):
        # There Python would ask the system again when its time is over.
        connection.settimeout(max(receive_s, send_s))
        return
    connection.settimeout(None)
    for option, seconds in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        whole = int(seconds)
        connection.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(whole, int((seconds - whole) * 1e6)))
