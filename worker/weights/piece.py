# SPDX-License-Identifier: MIT
"""Where a tensor's bytes lie on this machine."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """`n_bytes` from `offset_bytes` of an open file, for pread or sendfile. The file is borrowed."""

    fd: int
    offset_bytes: int
    n_bytes: int
