# SPDX-License-Identifier: MIT
"""What is fuzzed: each target takes bytes that a stranger sent, and may raise nothing but what its callers expect.

They run in the process of fuzzing/child.py, one input after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from google.protobuf.message import DecodeError

from native import (
    Context,
    ContextParams,
    LayerRange,
    Model,
    ModelFileError,
    NativeError,
    UnsupportedModelError,
    Vocabulary,
    read_layout,
)
from protos.caravan.v1 import control_pb2, frame_pb2, weights_pb2
from protos.weights import ChannelError, receive_greeting
from worker import control
from worker.errors import CallError
from worker.frames import FrameLimits, check_frame
from worker.weights import web
from worker.weights.address import Address
from worker.weights.asker import Asker, FetchOverError
from worker.weights.draft import HeaderChunk
from worker.weights.files import LocalFiles
from worker.weights.giver import give
from worker.weights.internet import Internet
from worker.weights.offers import Offers
from worker.weights.parts import Part
from worker.weights.piece import Piece
from worker.weights.sources import COORDINATOR
from worker.weights.steps import Ask, AskAddress, AskHash, AskPiece
from worker.weights.store import ModelStore
from worker.weights.web import WebAsker

# What is to be tried again is, at once.
web._FIRST_WAIT_S = 0.0

Target = Callable[[bytes], None]

# Behind a header that is loaded: enough for every tensor of a seed.
_FILE_BYTES = 256 << 20
_CLAIMED_BYTES = 1 << 40
_LOAD_S = 5
_PLACE = re.compile(r"[\w.-]+\.(?:cpp|c|h|py):\d+: .*")
_PARAMS = ContextParams(n_ctx_seq=64, n_seq_max=1, n_batch=32)
_TEXT = "Hello <s>\n\u2581\U0001f600"
# Of an input of `offer`: sizes of file, header and chunks, and which name and path. The header is what follows.
_OFFER = struct.Struct("<QQQBB")
OFFER_BYTES = _OFFER.size
_NAMES = ("model.gguf", "a" * 255, "b" * 256, "..", "a/b", "a\0b", "\u2581" * 90, "model.json")
_PATHS = (
    "",
    "/nowhere/x.gguf",
    "~",
    "~no such user/x",
    "p" * 5000,
    "/" + "q" * 300,
    "a\0b",
    "/dev/zero",
    ".",
    "\ud800",
)
_TENSOR_BYTES = 8


class LoadError(Exception):
    """llama.cpp ended the process, or took too long or too much, for a header that our reader takes."""


class _Targets:
    """All of them, with the folder that they write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ModelStore(folder / "models", None)
        self._offers = Offers(self._store, LocalFiles([folder / "local"], folder / "models"))
        (folder / "local").mkdir()
        (folder / "tensor").write_bytes(bytes(_TENSOR_BYTES))
        self._server = _Server()
        self._piece = Piece(os.open(folder / "tensor", os.O_RDONLY), 0, _TENSOR_BYTES)

    def layout(self, data: bytes) -> None:
        """A file; the same as both of two parts; and as headers alone, of files that are said to be large."""
        paths = [self._folder / name for name in ("model.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf")]
        for path in paths:
            path.write_bytes(data)
        for path in paths[:2]:
            with contextlib.suppress(ModelFileError):
                read_layout(path)
        for sizes in ([_CLAIMED_BYTES], [_CLAIMED_BYTES] * 2):
            with contextlib.suppress(ModelFileError):
                read_layout(paths[len(sizes) - 1], sizes)

    def loads(self, data: bytes) -> None:
        """What a header that our reader takes comes to in llama.cpp. Raises LoadError."""
        path, errors = self._folder / "model.gguf", self._folder / "errors"
        path.write_bytes(data)
        os.truncate(path, max(_FILE_BYTES, len(data)))
        try:
            n_layer = read_layout(path).n_layer
        except ModelFileError:
            return
        child = os.fork()
        if child == 0:
            _load_and_exit(path, errors, n_layer)
        status = _waited(child)
        said = errors.read_text(errors="replace")
        if status is None:
            raise LoadError(f"hangs in {_last_line(said)}")
        if status:
            how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "an exception"
            places = _PLACE.findall(said)
            raise LoadError(f"{how}: {places[0] if places else _last_line(said)}")

    def offer(self, data: bytes) -> None:
        """An offer of one model, and its header in chunks; then the offer of what is known by now."""
        n_bytes, n_header_bytes, chunk_bytes, name, path = _OFFER.unpack(data[:OFFER_BYTES].ljust(OFFER_BYTES, b"\0"))
        header = data[OFFER_BYTES:]
        identity = hashlib.sha256(header).hexdigest()
        part = Part(_NAMES[name % len(_NAMES)], n_bytes, n_header_bytes or len(header))
        step = max(len(header) // 100, min(chunk_bytes, 1 << 20), 1)
        chunks = [HeaderChunk(0, header[at : at + step]) for at in range(0, len(header), step)]
        for _ in range(2):
            with contextlib.suppress(ModelFileError, UnsupportedModelError, CallError):
                self._offers.offer(identity, _PATHS[path % len(_PATHS)], [part])
                self._offers.put_header(identity, chunks)
        self._store.remove(identity)

    def peer(self, data: bytes) -> None:
        """Its first byte says who reads the rest."""
        readers = (
            self._asked, _answered, _load_order, _benchmark_order, _first_frame, _later_frame, self._served_by
        )  # fmt: skip
        if data:
            readers[data[0] % len(readers)](data[1:])

    def _asked(self, data: bytes) -> None:
        """Whoever asks this worker for weights."""
        with _sent(data[:8192]) as connection, contextlib.suppress(ChannelError):
            receive_greeting(connection)
            give(connection, lambda tensor: self._piece if tensor == 0 else None)

    def _served_by(self, data: bytes) -> None:
        """The model's own server, wherever it redirects to."""
        self._server.be_read(data[:8192])


class _Server:
    """Answers everybody with the same bytes; whoever connects to anything connects to it."""

    def __init__(self) -> None:
        self._answer = b""
        self._internet = Internet(may_read_itself=True)
        listener = socket.create_server(("127.0.0.1", 0))
        host, connect = listener.getsockname(), socket.create_connection
        socket.create_connection = lambda _address, *more, **options: connect(host, *more, **options)
        message = weights_pb2.WeightAddress(url=f"http://models.example:{host[1]}/m", n_bytes=1000, tag='"1"')
        self._address = Address.parse(message)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        # What is imported for the first is no growth.
        self.be_read(b"")

    def be_read(self, answer: bytes) -> None:
        """With that answer, whatever is asked."""
        self._answer = answer
        WebAsker(0, _Reads(self._address), self._internet).run()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1 << 16)
                connection.sendall(self._answer)


def targets(folder: Path) -> dict[str, Target]:
    """All of them by their names; they use that empty folder, and only one is to be called."""
    of = _Targets(folder)
    return {"layout": of.layout, "loads": of.loads, "offer": of.offer, "peer": of.peer}


@contextlib.contextmanager
def _sent(data: bytes) -> Iterator[socket.socket]:
    """A connection over which that came, and no more will; its other end takes all that is answered."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        ours.settimeout(1)
        taking = threading.Thread(target=_take_all, args=(theirs,))
        taking.start()
        try:
            yield ours
        finally:
            with contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)
            taking.join()


def _take_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass


class _Wishes:
    """What an asker asks for: a tensor, then its hash, then where it is read."""

    def __init__(self) -> None:
        self._steps: list[Ask] = [AskAddress(0), AskHash(0, _TENSOR_BYTES), AskPiece(0, 0, _TENSOR_BYTES)]

    def next(self, number: int, *, may_wait: bool) -> Ask | None:
        if not self._steps and may_wait:
            raise FetchOverError
        return self._steps.pop() if self._steps else None

    def piece_came(self, number: int, tensor: int, offset: int, view: memoryview) -> None:
        assert len(view) == _TENSOR_BYTES, "what was asked for comes"

    def hash_came(self, number: int, tensor: int, hash: bytes) -> None:
        assert len(hash) == 32, "a hash is one"

    def address_came(self, number: int, tensor: int, address: weights_pb2.WeightAddress) -> None:
        with contextlib.suppress(ValueError):
            parsed = Address.parse(address)
            assert parsed.server in parsed.url, "an address has a server"
            assert parsed.shown, "it can be told"

    def refused(self, number: int, reason: str) -> None:
        pass

    def gone(self, number: int, reason: str) -> None:
        pass


class _Reads:
    """What is read from a server: a few bytes."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._steps: list[Ask] = [AskPiece(0, 2, 8), AskPiece(0, 0, 2)]
        self._left = (0, 0)

    def next(self, number: int, *, may_wait: bool) -> Ask | None:
        if not self._steps:
            raise FetchOverError
        step = self._steps.pop()
        assert isinstance(step, AskPiece)
        self._left = step.offset, step.n_bytes
        return step

    def address_of(self, tensor: int) -> tuple[Address, int]:
        return self._address, 100

    def piece_came(self, number: int, tensor: int, offset: int, view: memoryview) -> None:
        at, n_bytes = self._left
        assert offset == at, "bytes come in order"
        assert 0 < len(view) <= n_bytes, "no more comes than was asked for"
        self._left = at + len(view), n_bytes - len(view)

    def expired(self, number: int, address: Address, reason: str) -> None:
        pass

    def hash_came(self, number: int, tensor: int, hash: bytes) -> None:
        raise AssertionError("a server tells no hash")

    def address_came(self, number: int, tensor: int, address: weights_pb2.WeightAddress) -> None:
        raise AssertionError("a server tells no address")

    def refused(self, number: int, reason: str) -> None:
        raise AssertionError("a server refuses nothing but an address")

    def gone(self, number: int, reason: str) -> None:
        pass


def _answered(data: bytes) -> None:
    """Whoever was asked for weights."""
    with _sent(data[:8192]) as connection:
        Asker(0, COORDINATOR, _Wishes(), connection).run()


def _load_order(data: bytes) -> None:
    with contextlib.suppress(DecodeError, CallError):
        control._load_order(control_pb2.LoadRequest.FromString(data), 1)


def _benchmark_order(data: bytes) -> None:
    with contextlib.suppress(DecodeError, CallError):
        control._benchmark_order(control_pb2.BenchmarkRequest.FromString(data), 1)


def _first_frame(data: bytes) -> None:
    _check_frame(data, is_first=True)


def _later_frame(data: bytes) -> None:
    _check_frame(data, is_first=False)


def _check_frame(data: bytes, *, is_first: bool) -> None:
    limits = FrameLimits("s", 1, is_first, True, 32, 64, 2, 100, 8, False, 8000)
    with contextlib.suppress(DecodeError, CallError):
        check_frame(frame_pb2.FeedRequest.FromString(data), number=0, limits=limits, arrived_ns=0)


def _last_line(said: str) -> str:
    return " ".join(said.strip().splitlines()[-1:])


def _waited(child: int) -> int | None:
    end = time.monotonic() + _LOAD_S
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _load_and_exit(path: Path, errors: Path, n_layer: int) -> NoReturn:
    """0 if all of it came to what it may; else the reason is in `errors`."""
    code = 1
    try:
        fd = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE):
            # libFuzzer's handlers would take this for its own process.
            signal.signal(number, signal.SIG_DFL)
        for what in (_load_vocabulary, _dry_run_all, _dry_run_some):
            print(what.__name__, flush=True)
            with contextlib.suppress(NativeError, ValueError):
                what(path, n_layer)
        code = 0
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _load_vocabulary(path: Path, _n_layer: int) -> None:
    with Vocabulary.load(path) as vocabulary:
        vocabulary.tokenize(_TEXT, add_special=True, parse_special=True)
        vocabulary.piece(vocabulary.n_tokens - 1, special=True)


def _dry_run_all(path: Path, n_layer: int) -> None:
    _dry_run(path, LayerRange(0, n_layer))


def _dry_run_some(path: Path, n_layer: int) -> None:
    _dry_run(path, LayerRange(n_layer // 2, n_layer))


def _dry_run(path: Path, layers: LayerRange) -> None:
    with Model.load(path, layers=layers, device="CPU", allocate=False) as model, Context(model, _PARAMS) as context:
        context.memory()
