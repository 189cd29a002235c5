# SPDX-License-Identifier: MIT
"""Reads streams from an HTTP server as cheaply as Python can, in a process of its own: what is measured is the server,
and a client elsewhere would not share its processors. Run by `http_overhead`; imports nothing of ours.

Each line of its input is a task, JSON with `port`, `bodies` (one for each stream) and `only_first_byte`; for each it
prints the seconds from the first request to the last stream's end, or to the first byte.
"""

import json
import selectors
import socket
import sys
import time


def read(port: int, bodies: list[dict[str, object]], *, only_first_byte: bool) -> float:
    """Asks for all streams at once, and reads them."""
    requests = [_request(json.dumps(body).encode()) for body in bodies]
    with selectors.DefaultSelector() as selector:
        opened = [socket.create_connection(("127.0.0.1", port)) for _ in requests]
        start_s = time.perf_counter()
        for each, request in zip(opened, requests, strict=True):
            each.sendall(request)
            selector.register(each, selectors.EVENT_READ)
        tails = dict.fromkeys(opened, b"")
        took_s = 0.0
        while tails:
            for key, _ in selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                received = connection.recv(1 << 16)
                took_s = time.perf_counter() - start_s
                tails[connection] = (tails[connection] + received)[-64:]
                if only_first_byte or b"[DONE]" in tails[connection]:
                    selector.unregister(connection)
                    connection.close()
                    del tails[connection]
                elif not received:
                    raise ConnectionError("a stream ended too early")
    return took_s


def _request(body: bytes) -> bytes:
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


if __name__ == "__main__":
    for line in sys.stdin:
        task = json.loads(line)
        print(read(task["port"], task["bodies"], only_first_byte=task["only_first_byte"]), flush=True)
