# SPDX-License-Identifier: MIT
"""The journal's file: records one after another, each msgpack with a head that says how long it is and what it sums up
to. Pure, but for reading a file that nobody writes.

    head: length of the payload, CRC-32 of the payload, CRC-32 of these two; little-endian, 4 bytes each

A crash can tear the last record, and it is as if it had not been written. Anything else that is not as it was written
is damage, which is told, and what comes after it is not used.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack

MAGIC = b"caravan-journal\x00\x01"
"""What a journal begins with; the last byte is the version of the form."""

_HEAD = struct.Struct("<III")
_SUMMED = struct.Struct("<II")

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """What a file has.

    Attributes:
        damaged_at: The first byte of a record that is damaged; None: none is.
        is_torn: Whether the last record was not written to its end.
    """

    records: tuple[Record, ...]
    damaged_at: int | None = None
    is_torn: bool = False


def packed(record: Record) -> bytes:
    """As it stands in the file."""
    payload: bytes = msgpack.packb(record)
    summed = _SUMMED.pack(len(payload), zlib.crc32(payload))
    return summed + zlib.crc32(summed).to_bytes(4, "little") + payload


def read_records(content: bytes) -> ReadRecords:
    """Of a file that has begun with MAGIC; without that nothing of it can be used, and it is damaged at byte 0."""
    if not content.startswith(MAGIC):
        is_torn = MAGIC.startswith(content)
        return ReadRecords((), None if is_torn else 0, is_torn=is_torn)
    records: list[Record] = []
    at = len(MAGIC)
    while at < len(content):
        record, end = _record_at(content, at)
        if record is None:
            is_torn = end >= len(content)
            return ReadRecords(tuple(records), None if is_torn else at, is_torn=is_torn)
        records.append(record)
        at = end
    return ReadRecords(tuple(records))


def _record_at(content: bytes, at: int) -> tuple[Record | None, int]:
    """The record that begins there, or None; and where it ends. One that nothing follows may be torn."""
    start = at + _HEAD.size
    # A file system may have made the file longer, and not come to writing what belongs there.
    if start > len(content) or not content[at:].strip(b"\x00"):
        return None, len(content)
    length, payload_sum, head_sum = _HEAD.unpack_from(content, at)
    if zlib.crc32(content[at : at + _SUMMED.size]) != head_sum:
        return None, at
    end = start + length
    payload = content[start:end]
    if end > len(content) or zlib.crc32(payload) != payload_sum:
        return None, end
    try:
        record = msgpack.unpackb(payload, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return None, at
    return (record, end) if isinstance(record, dict) else (None, at)
