# SPDX-License-Identifier: MIT
"""The cluster that this user's machine is a member of: its secret, in a file that nobody else may read. Worker and
coordinator read it when they start; `caravan worker`, `serve` and `cluster` write it.
"""

import contextlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from protos.certificates import Authority, authority_of
from protos.join_code import SEED_BYTES, code_of, seed_of
from protos.secret_file import SecretFileError, identity_folder, read_secret, write_secret

_FILE = "cluster.json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What makes a machine a member: who has the seed has everything."""

    seed: bytes = field(repr=False)

    @classmethod
    def new(cls) -> "Cluster":
        """One that nobody knows yet."""
        return cls(secrets.token_bytes(SEED_BYTES))

    @classmethod
    def of_code(cls, code: str) -> "Cluster":
        """The one with that join code. Raises JoinCodeError."""
        return cls(seed_of(code))

    @property
    def code(self) -> str:
        """For other machines to join."""
        return code_of(self.seed)

    @property
    def authority(self) -> Authority:
        """Signs its members' certificates."""
        return authority_of(self.seed)

    @property
    def fingerprint(self) -> str:
        """What may be shown of it."""
        return self.authority.fingerprint


def cluster_path() -> Path:
    """The file; it need not exist."""
    return identity_folder() / _FILE


def load_cluster() -> Cluster | None:
    """This machine's; None: it is a member of none.

    Raises:
        SecretFileError: it cannot be read, others may read it, or it is something else.
    """
    path = cluster_path()
    text = read_secret(path)
    try:
        return None if text is None else Cluster.of_code(json.loads(text)["code"])
    except (ValueError, KeyError, TypeError, AttributeError):
        remedy = "delete it, and join again with `caravan cluster join`"
        raise SecretFileError(f"{path} is no cluster's file, or was damaged: {remedy}") from None


def create_cluster() -> tuple[Cluster, bool]:
    """This machine's cluster, and whether it was made now. Of two that create at the same time, one does.

    Raises:
        SecretFileError: it cannot be kept.
    """
    for _ in range(2):
        known = load_cluster()
        if known is not None:
            return known, False
        new = Cluster.new()
        with contextlib.suppress(FileExistsError):
            keep_cluster(new, replace=False)
            return new, True
    raise SecretFileError(f"{cluster_path()} comes and goes: see what else writes there")


def keep_cluster(cluster: Cluster, *, replace: bool = True) -> None:
    """Makes this machine a member.

    Raises:
        FileExistsError: it is one of some cluster already, and not to be `replace`d.
        SecretFileError: it cannot be kept.
    """
    content = json.dumps({"code": cluster.code, "fingerprint": cluster.fingerprint})
    write_secret(cluster_path(), content, replace=replace)


def forget_cluster() -> None:
    """Leaves it; nothing happens where there is none. Raises SecretFileError."""
    try:
        cluster_path().unlink(missing_ok=True)
    except OSError as error:
        raise SecretFileError(f"{cluster_path()} cannot be deleted ({error.strerror or error})") from error
