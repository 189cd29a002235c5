# SPDX-License-Identifier: MIT
"""Who this worker is, for Describe and for the mDNS record. Made once, at start."""

import re
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from native import Versions, versions
from protos.contract import CONTRACT_VERSION, is_worker_name
from protos.last_words import WorkerEnd
from worker.errors import BadNameError

_DISTRIBUTION = "llama-caravan"
# An mDNS label; room is left for "-2" and the like.
_MAX_DEFAULT_NAME = 56


@dataclass(frozen=True, slots=True)
class Description:
    """Name, versions and host of this process; `instance_id` is new with every start, `ends` are of those before."""

    name: str
    instance_id: str
    contract_version: str
    caravan_version: str
    engine: Versions
    host_name: str
    ends: Sequence[WorkerEnd] = ()


def describe(name: str, ends: Sequence[WorkerEnd]) -> Description:
    """This process, under that name."""
    return Description(
        name=name,
        instance_id=uuid.uuid4().hex,
        contract_version=CONTRACT_VERSION,
        caravan_version=_caravan_version(),
        engine=versions(),
        host_name=socket.gethostname(),
        ends=ends,
    )


def default_name(device: str) -> str:
    """A name from the host's and the device's, in the characters a worker's name may have."""
    host = re.sub(r"[^0-9A-Za-z_-]+", "-", socket.gethostname().split(".")[0]).strip("-_") or "worker"
    device = re.sub(r"[^0-9A-Za-z_-]+", "-", device)
    return f"{host}-{device}"[:_MAX_DEFAULT_NAME]


def check_name(name: str) -> None:
    """Raises BadNameError unless `name` may be a worker's."""
    if not is_worker_name(name):
        raise BadNameError(
            f"{name[:80]!r} cannot name a worker; use 1 to 63 letters, digits, '-' and '_', beginning with a"
            " letter or digit"
        )


def _caravan_version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        # Run from a checkout that was not installed.
        return "unknown"
