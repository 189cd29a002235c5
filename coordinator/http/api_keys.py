# SPDX-License-Identifier: MIT
"""Who may ask over HTTP: keys, of which only hashes are kept. `caravan keys` writes the file, `caravan serve` reads it
again as soon as it has changed, so that a key that is removed is worth nothing from then on.

A key is 256 random bits, so a plain SHA-256 of it is as hard to turn round as the key is to guess.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from protos.secret_file import SecretFileError, identity_folder, read_secret, write_secret

_LOG = logging.getLogger(__name__)

_FILE = "api-keys.json"
_PREFIX = "caravan-"
_N_BYTES = 32
MIN_CHARACTERS = 16
"""Of a key that somebody else made up: shorter ones can be guessed over a network."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without the key.

    Attributes:
        made: In ISO 8601.
    """

    name: str
    sha256: str
    made: str


class Keys(Protocol):
    """What tells keys from what is none."""

    def allows(self, key: str) -> bool:
        """Whether that is one of them."""


def keys_path() -> Path:
    """The file; it need not exist."""
    return identity_folder() / _FILE


def known_keys() -> list[ApiKey]:
    """Those of this machine.

    Raises:
        SecretFileError: The file cannot be used.
    """
    text = read_secret(keys_path())
    try:
        keys = [] if text is None else [ApiKey(**each) for each in json.loads(text)["keys"]]
        # Else comparing would raise.
        bytes.fromhex("".join(key.sha256 for key in keys))
        return keys
    except (ValueError, KeyError, TypeError):
        raise SecretFileError(f"{keys_path()} is no file of API keys, or was damaged: delete it") from None


def add_key(name: str) -> str:
    """Makes one; the key itself, which is kept nowhere.

    Raises:
        ValueError: There is one of that name.
        SecretFileError: The file cannot be used.
    """
    keys = known_keys()
    if any(key.name == name for key in keys):
        raise ValueError(f"there is a key named {name} already: choose another name, or remove that one first")
    key = _PREFIX + secrets.token_urlsafe(_N_BYTES)
    made = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    _keep([*keys, ApiKey(name, _hash(key), made)])
    return key


def remove_key(name: str) -> None:
    """Has a key be none any more.

    Raises:
        ValueError: There is none of that name.
        SecretFileError: The file cannot be used.
    """
    keys = known_keys()
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        there = ", ".join(key.name for key in keys) or "none"
        raise ValueError(f"there is no key named {name}; there are: {there}")
    _keep(kept)


class KnownKeys:
    """Those of this machine, as they are at each request."""

    def __init__(self) -> None:
        """Raises SecretFileError where the file cannot be used."""
        self._mark = _mark()
        self._hashes = tuple(key.sha256 for key in known_keys())

    def allows(self, key: str) -> bool:
        """Whether that is one of them; nothing is while the file cannot be used."""
        mark = _mark()
        if mark != self._mark:
            try:
                self._hashes = tuple(each.sha256 for each in known_keys())
            except SecretFileError as error:
                _LOG.error("no API key is taken: %s", error)
                self._hashes = ()
            self._mark = mark
        return _is_among(key, self._hashes)


class GivenKeys:
    """Those of a list, as somebody else made them up."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = tuple(map(_hash, keys))

    def allows(self, key: str) -> bool:
        """Whether that is one of them."""
        return _is_among(key, self._hashes)


def read_keys(path: Path) -> list[str]:
    """The keys of a file, a line each; empty lines and such that begin with # are none.

    Raises:
        ValueError: It has none, or one that is too short.
        OSError: It cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"{path} has no key: write one on each line")
    if any(len(key) < MIN_CHARACTERS for key in keys):
        raise ValueError(f"{path} has a key of less than {MIN_CHARACTERS} characters, which can be guessed")
    return keys


def _keep(keys: Sequence[ApiKey]) -> None:
    write_secret(keys_path(), json.dumps({"keys": [asdict(key) for key in keys]}, indent=2))


def _mark() -> tuple[int, int, int] | None:
    try:
        about = keys_path().stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_mode


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _is_among(key: str, hashes: Sequence[str]) -> bool:
    """Takes as long whichever it is, and whether it is any."""
    presented = _hash(key)
    found = False
    for each in hashes:
        found |= hmac.compare_digest(presented, each)
    return found
