# SPDX-License-Identifier: MIT
"""The weights port: where coordinators connect to give weights to a load, and workers to ask for what is here
(weights.proto).

Connections are accepted on a thread of this module's, and each is greeted, and asked or given by, on one of its own.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from protos.caravan.v1 import error_pb2, weights_pb2
from protos.channels import Channels, greet_tls, hang_up
from protos.weights import ChannelError, receive_greeting, welcome
from worker.errors import PortError
from worker.listening import Endpoint
from worker.weights.giver import Find, give

_LOG = logging.getLogger(__name__)

# Some for each worker of a large mesh, and a coordinator's; each takes a thread.
_MAX_CONNECTIONS = 128
# Of these, such as have not said yet what they want: the oldest goes when there are more.
_MAX_STRANGERS = 16
_GREETING_S = 10.0
_RETRY_S = 0.05

# Gives what finds the model's tensors while it is entered; None: nothing of that model is here.
Open = Callable[[str], AbstractContextManager[Find | None]]
# Takes a connection to a coordinator that gives; False: it is not wanted (any more).
Take = Callable[[socket.socket], bool]


class WeightsPort:
    """A listening socket, from the moment it is made until `close`."""

    def __init__(self, endpoint: Endpoint, open_model: Open, channels: Channels) -> None:
        """Listens on the host of `endpoint`, at the port after its own; at any free one where that is 0, or where
        somebody else has the one after it, which `is_displaced` then says.

        Raises:
            PortError: it cannot.
        """
        self.channels = channels
        self._open = open_model
        self._lock = threading.Lock()
        self._expected: dict[tuple[str, int], tuple[str, Take]] = {}
        self._strangers: list[socket.socket] = []
        self._connections: set[socket.socket] = set()
        self._is_closed = False
        self._listener = _listen(endpoint)
        self.port: int = self._listener.getsockname()[1]
        self.is_displaced = endpoint.port != 0 and self.port != endpoint.port + 1
        self._thread = threading.Thread(target=self._accept, name="weights-port", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def expect(self, session_id: str, epoch: int, identity: str, take: Take) -> Iterator[None]:
        """While this lasts, coordinators that give that model to that load are handed to `take`, on their threads."""
        key = session_id, epoch
        with self._lock:
            self._expected[key] = identity, take
        try:
            yield
        finally:
            with self._lock:
                del self._expected[key]

    def close(self) -> None:
        """Hangs up on everybody; safe to repeat."""
        with self._lock:
            self._is_closed = True
            connections = [*self._connections]
        # Closing a socket does not wake a thread that waits for it.
        for each in (self._listener, *connections):
            with contextlib.suppress(OSError):
                hang_up(each)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection = self.channels.accepted(self._listener.accept()[0])
            except (OSError, ValueError):
                if self._is_closed:
                    return
                # Too many open files, or whoever connected is gone already.
                time.sleep(_RETRY_S)
                continue
            with self._lock:
                is_welcome = not self._is_closed and len(self._connections) < _MAX_CONNECTIONS
                if is_welcome:
                    self._connections.add(connection)
                    self._strangers.append(connection)
                stranger = self._strangers.pop(0) if len(self._strangers) > _MAX_STRANGERS else None
            if stranger is not None:
                with contextlib.suppress(OSError):
                    hang_up(stranger)
            if not is_welcome:
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="weights", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        is_taken = False
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(_GREETING_S)
            greet_tls(connection)
            hello = receive_greeting(connection)
            with self._lock:
                self._forget_stranger(connection)
            if hello.role == weights_pb2.WEIGHTS_ROLE_ASKER:
                self._give(connection, hello)
            else:
                is_taken = self._hand_over(connection, hello)
        except (ChannelError, OSError) as error:
            _LOG.info("a connection to the weights port ended: %s", error)
        finally:
            with self._lock:
                self._forget_stranger(connection)
                self._connections.discard(connection)
            if not is_taken:
                connection.close()

    def _forget_stranger(self, connection: socket.socket) -> None:
        if connection in self._strangers:
            self._strangers.remove(connection)

    def _give(self, connection: socket.socket, hello: weights_pb2.WeightsHello) -> None:
        with self._open(hello.identity) as find:
            if find is None:
                _turn_away(connection, error_pb2.ERROR_CODE_NO_SOURCE, "nothing of that model is on this worker")
                return
            welcome(connection)
            give(connection, find)

    def _hand_over(self, connection: socket.socket, hello: weights_pb2.WeightsHello) -> bool:
        with self._lock:
            identity, take = self._expected.get((hello.session_id, hello.epoch), ("", None))
        if hello.role != weights_pb2.WEIGHTS_ROLE_GIVER:
            _turn_away(connection, error_pb2.ERROR_CODE_INVALID_ARGUMENT, "a connection either gives or asks")
        elif take is None or identity != hello.identity:
            message = f"no load of session {hello.session_id[:64]}, epoch {hello.epoch}, waits for that model here"
            _turn_away(connection, error_pb2.ERROR_CODE_NO_SUCH_SESSION, message)
        else:
            welcome(connection)
            return take(connection)
        return False


def _turn_away(connection: socket.socket, code: "error_pb2.ErrorCode", message: str) -> None:
    welcome(connection, error_pb2.ErrorDetail(code=code, message=message))


def _listen(endpoint: Endpoint) -> socket.socket:
    if endpoint.port:
        with contextlib.suppress(OSError, OverflowError):
            return _server(endpoint.host, endpoint.port + 1)
    try:
        return _server(endpoint.host, 0)
    except OSError as error:
        raise PortError(f"no port for weights can be had on {endpoint.host} ({error.strerror or error})") from error


def _server(host: str, port: int) -> socket.socket:
    """On every address of the machine where `host` means that."""
    if host in ("::", "*") and socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server((str(address[0]), port), family=family)
