# SPDX-License-Identifier: MIT
"""The cluster that this user's machine is a member of: its secret, in a file that nobody else may read. Worker and
coordinator read it when they start; `caravan worker`, `serve` and `cluster` write it.
"""

import contextlib
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from protos.certificates import Authority, authority_of
from protos.join_code import SEED_BYTES, JoinCodeError, code_of, seed_of

IDENTITY_VARIABLE = "CARAVAN_IDENTITY"

_FILE = "cluster.json"
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class ClusterFileError(Exception):
    """The file of the cluster cannot be used; a sentence with what to do."""


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


def identity_folder() -> Path:
    """Where this user keeps what must stay secret: CARAVAN_IDENTITY, or else a folder beside the configuration. It need
    not exist."""
    own = os.environ.get(IDENTITY_VARIABLE)
    return Path(own) if own else Path(platformdirs.user_config_path("caravan", appauthor=False)) / "identity"


def cluster_path() -> Path:
    """The file; it need not exist."""
    return identity_folder() / _FILE


def load_cluster() -> Cluster | None:
    """This machine's; None: it is a member of none.

    Raises:
        ClusterFileError: it cannot be read, others may read it, or it is something else.
    """
    path = cluster_path()
    try:
        text = read_secret(path)
        return None if text is None else Cluster.of_code(json.loads(text)["code"])
    except OSError as error:
        raise ClusterFileError(f"{path} cannot be read ({error.strerror or error}): mend its rights") from error
    except (JoinCodeError, ValueError, KeyError, TypeError, AttributeError):
        remedy = "delete it, and join again with `caravan cluster join`"
        raise ClusterFileError(f"{path} is no cluster's file, or was damaged: {remedy}") from None


def create_cluster() -> tuple[Cluster, bool]:
    """This machine's cluster, and whether it was made now. Of two that create at the same time, one does.

    Raises:
        ClusterFileError: it cannot be kept.
    """
    for _ in range(2):
        known = load_cluster()
        if known is not None:
            return known, False
        new = Cluster.new()
        with contextlib.suppress(FileExistsError):
            keep_cluster(new, replace=False)
            return new, True
    raise ClusterFileError(f"{cluster_path()} comes and goes: see what else writes there")


def keep_cluster(cluster: Cluster, *, replace: bool = True) -> None:
    """Makes this machine a member.

    Raises:
        FileExistsError: it is one of some cluster already, and not to be `replace`d.
        ClusterFileError: it cannot be kept.
    """
    path = cluster_path()
    try:
        write_secret(path, json.dumps({"code": cluster.code, "fingerprint": cluster.fingerprint}), replace=replace)
    except FileExistsError:
        raise
    except OSError as error:
        remedy = f"name another folder with {IDENTITY_VARIABLE}, or mend its rights"
        raise ClusterFileError(f"{path} cannot be written ({error.strerror or error}): {remedy}") from error


def forget_cluster() -> None:
    """Leaves it; nothing happens where there is none. Raises ClusterFileError."""
    try:
        cluster_path().unlink(missing_ok=True)
    except OSError as error:
        raise ClusterFileError(f"{cluster_path()} cannot be deleted ({error.strerror or error})") from error


def read_secret(path: Path) -> str | None:
    """What the file has; None: there is none.

    Raises:
        ClusterFileError: others than its owner may read or write it.
        OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & _FOR_OTHERS:
                raise ClusterFileError(f"{path} holds a secret, and others may read it: chmod 600 {path}")
            return file.read()
    except FileNotFoundError:
        return None


def write_secret(path: Path, text: str, *, replace: bool = True) -> None:
    """Whole or not at all, for its owner alone; so is a folder that is made for it.

    Raises:
        FileExistsError: it is there, and not to be `replace`d.
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        elif os.name == "posix":
            os.link(draft, path)
        else:
            draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
