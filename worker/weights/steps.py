# SPDX-License-Identifier: MIT
"""What a fetch wants, and the steps by which it gets there (schedule.py)."""

from dataclasses import dataclass

from worker.weights.sources import Origin


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor that a load needs: which copies here may be it, best first, and which peers hold it."""

    tensor: int
    n_bytes: int
    copies: tuple[Origin, ...] = ()
    peers: tuple[str, ...] = ()
    is_hash_known: bool = False
    # Of the model, which the tensor lies in.
    part: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """Compare the copy that is here with the hash."""

    tensor: int
    copy: Origin


@dataclass(frozen=True, slots=True)
class Open:
    """Begin to write the tensor, and tell which bytes of it are missing."""

    tensor: int


@dataclass(frozen=True, slots=True)
class AskPiece:
    """Ask for these bytes."""

    tensor: int
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class AskAddress:
    """Ask where the part that the tensor lies in is to be read by now."""

    tensor: int


@dataclass(frozen=True, slots=True)
class AskHash:
    """Ask for the hash of the tensor, which has so many bytes."""

    tensor: int
    n_bytes: int


# What is asked of a connection.
Ask = AskPiece | AskHash | AskAddress
