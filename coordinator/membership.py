# SPDX-License-Identifier: MIT
"""What this machine's membership of a cluster means for a coordinator: how it reaches workers, whom it met, and what it
says of those that it does not talk to. Used when a mesh opens and by the commands that look for workers.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from coordinator.cache import keep_json
from coordinator.errors import IdentityError
from coordinator.workers import FoundWorker
from protos.cache_folder import cache_folder
from protos.channels import PLAIN, Channels
from protos.cluster import load_cluster
from protos.secret_file import SecretFileError


def own_channels(*, insecure: bool = False) -> Channels:
    """With this user's cluster, if there is one and it counts.

    Args:
        insecure: It does not: workers without any are wanted.

    Raises:
        IdentityError: The file of the cluster cannot be used.
    """
    if insecure:
        return PLAIN
    try:
        return Channels(load_cluster())
    except SecretFileError as error:
        raise IdentityError(str(error)) from error


def strangers_text(n_strangers: int, channels: Channels) -> str:
    """That workers were seen which are no members with us; empty if none were."""
    if not n_strangers:
        return ""
    seen = "1 worker was seen that is" if n_strangers == 1 else f"{n_strangers} workers were seen that are"
    if channels.is_secure:
        return f"{seen} not of this computer's cluster, {channels.fingerprint}"
    return f"{seen} of a cluster, which this computer can join with `caravan cluster join`"


_MEMBERS_FILE = "members.json"
_MAX_MEMBERS = 256


@dataclass(frozen=True, slots=True)
class Member:
    """A worker that was met with a certificate of the cluster.

    Attributes:
        host_name: Its machine's name, as it says.
        seen: When it was met last, in ISO 8601.
    """

    name: str
    host_name: str
    address: str
    seen: str


def note_members(channels: Channels, workers: Sequence[FoundWorker]) -> None:
    """Remembers whom this machine has met of its cluster, for `caravan cluster show`."""
    if not channels.is_secure or not workers:
        return
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    members = {member.name: member for member in known_members(channels.fingerprint)}
    members |= {worker.name: Member(worker.name, worker.host_name, worker.address, now) for worker in workers}
    kept = sorted(members.values(), key=lambda member: member.seen)[-_MAX_MEMBERS:]
    keep_json(_MEMBERS_FILE, {"cluster": channels.fingerprint, "members": [asdict(member) for member in kept]})


def known_members(fingerprint: str) -> list[Member]:
    """Those of that cluster, by name."""
    try:
        content = json.loads((cache_folder() / _MEMBERS_FILE).read_text(encoding="utf-8"))
        members = [
            Member(**{key: str(each[key]) for key in ("name", "host_name", "address", "seen")})
            for each in content["members"]
        ]
        return sorted(members, key=lambda member: member.name) if content["cluster"] == fingerprint else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
