# SPDX-License-Identifier: MIT
"""The join code: a cluster's seed as people read it aloud and type it. Pure.

28 characters of Crockford's base 32 in groups of four: 128 bits of seed and 12 of a checksum, so that of 4096 slips one
gets through. Source: https://www.crockford.com/base32.html
"""

import hashlib

SEED_BYTES = 16

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# What is read for another: there is no I, L and O, and no U, so that chance spells nothing rude.
_LOOKALIKES = str.maketrans("ILO", "110")
_CHECKSUM_BITS = 12
_N_CHARACTERS = 28
_GROUP = 4
_PURPOSE = b"caravan join code 1"


class JoinCodeError(ValueError):
    """What was given is no join code; the message says why, and does not repeat it."""


def code_of(seed: bytes) -> str:
    """The join code of a seed of SEED_BYTES."""
    number = int.from_bytes(seed, "big") << _CHECKSUM_BITS | _checksum(seed)
    characters = [_ALPHABET[number >> 5 * at & 31] for at in reversed(range(_N_CHARACTERS))]
    return "-".join("".join(characters[at : at + _GROUP]) for at in range(0, _N_CHARACTERS, _GROUP))


def seed_of(code: str) -> bytes:
    """The seed of a join code, in either case, however it is grouped.

    Raises:
        JoinCodeError: it is none, or was mistyped.
    """
    plain = "".join(code.upper().replace("-", " ").split()).translate(_LOOKALIKES)
    if len(plain) != _N_CHARACTERS:
        raise JoinCodeError(
            f"a join code has {_N_CHARACTERS} letters and digits, like {code_of(bytes(SEED_BYTES))}; this one has"
            f" {len(plain)}"
        )
    strangers = sorted(set(plain) - set(_ALPHABET))
    if strangers:
        raise JoinCodeError(f"a join code has no {strangers[0]!r}: compare it with the one that was printed")
    number = 0
    for character in plain:
        number = number << 5 | _ALPHABET.index(character)
    seed = (number >> _CHECKSUM_BITS).to_bytes(SEED_BYTES, "big")
    if number & (1 << _CHECKSUM_BITS) - 1 != _checksum(seed):
        raise JoinCodeError("the join code was mistyped: its checksum is wrong; compare it with the one printed")
    return seed


def _checksum(seed: bytes) -> int:
    digest = hashlib.sha256(_PURPOSE + seed).digest()
    return int.from_bytes(digest[:2], "big") >> 16 - _CHECKSUM_BITS
