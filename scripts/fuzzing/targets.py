# SPDX-License-Identifier: MIT
"""What is fuzzed: each target takes bytes that a stranger sent, and may raise nothing but what its callers expect.

They run in the process of fuzzing/child.py, one input after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf.message import Message

from fuzzing.limits import bounded
from native import ModelFileError, UnsupportedModelError, read_layout
from protos.caravan.v1 import weights_pb2
from protos.weights import ChannelClosedError, ChannelError, receive_greeting, receive_message
from worker.errors import CallError
from worker.weights.draft import HeaderChunk
from worker.weights.files import LocalFiles
from worker.weights.offers import Offers
from worker.weights.parts import Part
from worker.weights.store import ModelStore

Target = Callable[[bytes], None]

_SPARSE_BYTES = 64 << 20
# ggml keeps a text of 8 bytes twice, in 32 each, and there may be two million of them in a hole.
_SPARSE_LIMIT_BYTES = 128 << 20
_CLAIMED_BYTES = 1 << 40
# Of an input of `offer`: how it is offered. The header is what follows.
_OFFER = struct.Struct("<QQQBB")
# Of an input of `split`: the length of the first part.
_SPLIT = struct.Struct("<I")
OFFER_BYTES, SPLIT_BYTES = _OFFER.size, _SPLIT.size
_NAMES = ("model.gguf", "m-00001-of-00002.gguf", "a" * 255, "b" * 256, "..", "a/b", "a\0b", "\u2581" * 90, "model.json")
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


class _Targets:
    """All of them, with the folder that they write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ModelStore(folder / "models", None)
        self._offers = Offers(self._store, LocalFiles([folder / "local"], folder / "models"))
        (folder / "local").mkdir()

    def layout(self, data: bytes) -> None:
        """A file, the same before a hole, and as the header alone of a file that is claimed to be large."""
        path = self._folder / "model.gguf"
        path.write_bytes(data)
        with _refusals(len(data)):
            read_layout(path)
        with _refusals(len(data)):
            read_layout(path, [_CLAIMED_BYTES])
        with path.open("r+b") as file:
            file.truncate(_SPARSE_BYTES)
        with _refusals(_SPARSE_LIMIT_BYTES):
            read_layout(path)

    def split(self, data: bytes) -> None:
        """Two parts, which may be headers alone."""
        (length,) = _SPLIT.unpack(data[: _SPLIT.size].ljust(_SPLIT.size, b"\0"))
        parts = data[_SPLIT.size :][:length], data[_SPLIT.size :][length:]
        paths = [self._folder / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
        for path, part in zip(paths, parts, strict=True):
            path.write_bytes(part)
        for sizes in (None, [_CLAIMED_BYTES, _CLAIMED_BYTES]):
            with _refusals(len(data)):
                read_layout(paths[0], sizes)

    def offer(self, data: bytes) -> None:
        """An offer of one model, and its header in chunks; then the offer of what is known by now."""
        fields = _OFFER.unpack(data[: _OFFER.size].ljust(_OFFER.size, b"\0"))
        n_bytes, n_header_bytes, chunk_bytes, name, path = fields
        header = data[_OFFER.size :]
        identity = hashlib.sha256(header).hexdigest()
        part = Part(_NAMES[name % len(_NAMES)], n_bytes, n_header_bytes or len(header))
        step = max(1, min(chunk_bytes, 1 << 20))
        chunks = (HeaderChunk(0, header[at : at + step]) for at in itertools.islice(range(0, len(header), step), 1000))
        for _ in range(2):
            with _refusals(len(data)):
                self._offers.offer(identity, _PATHS[path % len(_PATHS)], [part])
            with _refusals(len(data)):
                self._offers.put_header(identity, chunks)
        self._store.remove(identity)

    def channel(self, data: bytes) -> None:
        """A connection of whoever speaks to the weights port."""
        ours, theirs = socket.socketpair()
        with ours, theirs, _refusals(len(data)):
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                theirs.send(data)
            theirs.shutdown(socket.SHUT_WR)
            ours.settimeout(1)
            with contextlib.suppress(ChannelError):
                receive_greeting(ours)
            kinds: tuple[type[Message], ...] = (
                weights_pb2.WeightsWelcome,
                weights_pb2.WeightsAsk,
                weights_pb2.WeightsPiece,
            )
            with contextlib.suppress(ChannelClosedError):
                for kind in itertools.cycle(kinds):
                    _receive(ours, kind)


def _receive(connection: socket.socket, kind: type[Message]) -> None:
    """A message, or none. Raises ChannelClosedError."""
    try:
        receive_message(connection, kind)
    except ChannelClosedError:
        raise
    except ChannelError:
        pass


def targets(folder: Path) -> dict[str, Target]:
    """All of them by their names; they use that empty folder, and only one is to be called."""
    of = _Targets(folder)
    return {"layout": of.layout, "split": of.split, "offer": of.offer, "channel": of.channel}


@contextlib.contextmanager
def _refusals(n_bytes: int) -> Iterator[None]:
    """What a stranger's bytes may end in: a sentence, and no more memory than they have themselves."""
    with bounded(n_bytes), contextlib.suppress(ModelFileError, UnsupportedModelError, CallError):
        yield
