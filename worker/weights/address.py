# SPDX-License-Identifier: MIT
"""Where a part of a model may be read on a server, as a coordinator tells it."""

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from blake3 import blake3

from protos.caravan.v1 import weights_pb2
from protos.http_ranges import MAX_FILE_BYTES

_MAX_URL = 8 << 10
_MAX_TAG = 1 << 10
_STAMP_BYTES = 8


@dataclass(frozen=True, slots=True)
class Address:
    """A WeightAddress. `stamp` names the part's bytes among all that were read of it, at any time."""

    # A signature in it is nobody else's.
    url: str = field(repr=False)
    n_bytes: int
    tag: str
    stamp: bytes

    @classmethod
    def parse(cls, message: weights_pb2.WeightAddress) -> "Address":
        """Raises ValueError: it is none that a worker would read from; says so."""
        url, name = message.url, message.version or message.tag
        if not 0 < len(url) <= _MAX_URL or not url.isascii() or not url.isprintable():
            raise ValueError(f"an address has 1 to {_MAX_URL} characters of ASCII")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"weights are read from http:// and https://, not from {parts.scheme[:20] or 'nowhere'}")
        if "@" in parts.netloc:
            raise ValueError("an address that weights are read from has no name and no password in it")
        if max(len(message.tag), len(message.version)) > _MAX_TAG or not message.tag.isprintable():
            raise ValueError(f"the tag of a file has {_MAX_TAG} characters at most")
        if not 0 < message.n_bytes <= MAX_FILE_BYTES:
            raise ValueError(f"a part of a model does not have {message.n_bytes} bytes")
        stamp = blake3(f"{message.n_bytes} {name}".encode()).digest(_STAMP_BYTES) if name else os.urandom(_STAMP_BYTES)
        return cls(url, message.n_bytes, message.tag, stamp)

    @property
    def shown(self) -> str:
        """For sentences, without what gives access."""
        parts = urlsplit(self.url)
        return f"{parts.path.rpartition('/')[2] or 'the model'} on {parts.hostname}"

    @property
    def server(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc
