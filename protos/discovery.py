# SPDX-License-Identifier: MIT
"""The mDNS record by which a worker shows itself: its service type and the properties of its TXT record.

The worker's announcer writes it, the coordinator's discovery reads it, each next to its own zeroconf. Anybody
on the LAN can send records, so what is read is checked: it is a worker of ours, or a RecordError that says
why not. Whether its versions fit is the reader's decision. Source: RFC 6763, sections 4.1 (names) and 6
(TXT).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protos.contract import is_worker_name

SERVICE_TYPE = "_caravan._tcp.local."

# A TXT string is at most 255 bytes with key and "="; our longest key is "llama_cpp".
_MAX_VALUE_BYTES = 200
_MAX_HOST_CHARACTERS = 253


class RecordError(ValueError):
    """Not the record of a worker; says which part is wrong."""


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """One worker as it shows itself on the LAN.

    `instance_id` is new with every start of the process: the same name with two of them means two workers.
    `llama_cpp` is the engine's build, `device` llama.cpp's name of its device, `cluster` the fingerprint of its
    cluster, empty if it has none; all may be shown, none is proof.
    """

    name: str
    instance_id: str
    host: str
    port: int
    contract_version: str
    llama_cpp: str
    device: str
    cluster: str = ""

    @property
    def address(self) -> str:
        """Where to reach it, as a gRPC target."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def service_name(self) -> str:
        """Its full mDNS name, unique on the LAN."""
        return f"{self.name}.{SERVICE_TYPE}"

    def to_properties(self) -> dict[str, bytes]:
        """The TXT record's properties. Host and port travel in the A, AAAA and SRV records.

        Raises:
            RecordError: a name no worker may have, or an instance id or a version that is empty or too long.
        """
        _check_name(self.name)
        return {
            "contract": _encoded("contract", self.contract_version),
            "name": _encoded("name", self.name),
            "instance": _encoded("instance", self.instance_id),
            "llama_cpp": _encoded("llama_cpp", self.llama_cpp),
            "device": _encoded("device", self.device),
            **({"cluster": _encoded("cluster", self.cluster)} if self.cluster else {}),
        }

    @classmethod
    def from_properties(cls, properties: Mapping[bytes, bytes | None], *, host: str, port: int) -> "WorkerRecord":
        """The record with these TXT properties (as zeroconf gives them) at this address; unknown ones are
        ignored.

        Raises:
            RecordError: a property is missing, no UTF-8, or out of bounds; or the address is.
        """
        if not 1 <= len(host) <= _MAX_HOST_CHARACTERS or not host.isprintable() or " " in host:
            raise RecordError("the record's host is no host name or address")
        if not 1 <= port <= 65535:
            raise RecordError(f"the record's port is {port}")
        name = _decoded(properties, "name")
        _check_name(name)
        return cls(
            name=name,
            instance_id=_decoded(properties, "instance"),
            host=host,
            port=port,
            contract_version=_decoded(properties, "contract"),
            llama_cpp=_decoded(properties, "llama_cpp"),
            device=_decoded(properties, "device"),
            cluster=_decoded(properties, "cluster") if b"cluster" in properties else "",
        )


def _check_name(name: str) -> None:
    if not is_worker_name(name):
        raise RecordError(
            f"{name[:80]!r} cannot name a worker: 1 to 63 letters, digits, '-', '_', a letter or digit first"
        )


def _encoded(key: str, value: str) -> bytes:
    raw = value.encode()
    if not 1 <= len(raw) <= _MAX_VALUE_BYTES or not value.isprintable():
        raise RecordError(f"{key} must have 1 to {_MAX_VALUE_BYTES} printable bytes, not {value[:80]!r}")
    return raw


def _decoded(properties: Mapping[bytes, bytes | None], key: str) -> str:
    raw = properties.get(key.encode())
    if raw is None:
        raise RecordError(f"the record has no {key}")
    if not 1 <= len(raw) <= _MAX_VALUE_BYTES:
        raise RecordError(f"the record's {key} has {len(raw)} bytes")
    try:
        value = raw.decode()
    except UnicodeDecodeError:
        raise RecordError(f"the record's {key} is no UTF-8") from None
    if not value.isprintable():
        raise RecordError(f"the record's {key} is not printable")
    return value
