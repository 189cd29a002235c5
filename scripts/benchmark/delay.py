# SPDX-License-Identifier: MIT
"""A forwarder that holds every byte back for a while: a network link on one machine.

Run as a process: `python scripts/benchmark/delay.py HOST LISTEN_PORT TARGET_PORT DELAY_MS`. Threads and nanosleep,
since an event loop's timers are no finer than a millisecond; bandwidth is not limited.
"""

from __future__ import annotations

import queue
import socket
import sys
import threading
import time

# Read at once; a whole decode frame fits many times over.
_CHUNK_BYTES = 1 << 18


def forward(host: str, listen_port: int, target_port: int, delay_s: float) -> None:
    """Accepts connections on that address for as long as the process lives."""
    listener = socket.create_server((host, listen_port))
    while True:
        near, _ = listener.accept()
        far = socket.create_connection((host, target_port))
        for source, target in ((near, far), (far, near)):
            target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            held: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
            threading.Thread(target=_read, args=(source, held, delay_s), daemon=True).start()
            threading.Thread(target=_write, args=(target, held), daemon=True).start()


def _read(source: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]], delay_s: float) -> None:
    while True:
        try:
            data = source.recv(_CHUNK_BYTES)
        except OSError:
            data = b""
        held.put((time.perf_counter() + delay_s, data))
        if not data:
            return


def _write(target: socket.socket, held: queue.SimpleQueue[tuple[float, bytes]]) -> None:
    while True:
        due, data = held.get()
        wait_s = due - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        try:
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(data)
        except OSError:
            return


if __name__ == "__main__":
    forward(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]) / 1000)
