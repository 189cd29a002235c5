# SPDX-License-Identifier: MIT
"""An inventory: a TOML file of machines that need not be there. Read and checked; every fault is one sentence that
names the file, the entry and the remedy. docs/planner.md shows the format.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from coordinator.errors import InventoryError
from coordinator.inventory.cards import Card, Kind, find_card
from coordinator.inventory.machines import Inventory, InventoryDevice
from coordinator.inventory.quantities import parse_bandwidth, parse_compute, parse_time
from coordinator.toml import TomlError, parse_toml, read_text
from coordinator.workers import Link
from protos.sizes import parse_size

_MAX_MEMORY_BYTES = 1 << 50
"""More is a slip of the pen."""

_NETWORK = Link(round_trip_s=0.0003, bytes_per_s=125e6)
"""Where the file says nothing: gigabit Ethernet through a switch."""

_GPU_RESERVE_BYTES = 512 << 20
"""Of a card, for its driver's context and a desktop."""
_CPU_RESERVE_BYTES = 2 << 30
"""Of a machine, for its system."""
_RAM_BYTES_PER_S = 50e9
"""Of a desktop's memory where the file says nothing: two channels of DDR4-3200."""
_SMALL_UNIFIED_BYTES = 32 << 30
"""Metal lets a GPU have two thirds of so much memory or less, and three quarters of more (recommendedMaxWorkingSetSize,
as llama.cpp prints it at start)."""

_T = TypeVar("_T")


def read_inventory(path: Path) -> Inventory:
    """What the file says.

    Raises:
        InventoryError: It cannot be read, or says what cannot be.
    """
    try:
        text = read_text(path)
    except (TomlError, FileNotFoundError) as error:
        raise InventoryError(f"{error}: name a TOML file of devices") from error
    return parse_inventory(text, str(path))


def parse_inventory(text: str, source: str) -> Inventory:
    """What a text in an inventory's format says.

    Args:
        source: What to call it in messages.

    Raises:
        InventoryError: It says what cannot be.
    """
    try:
        content = parse_toml(text, source)
    except TomlError as error:
        raise InventoryError(f"{error}; mend it there") from error
    file = _Entry(source, "", content, ("device", "network", "link", "coordinator"))
    devices = _with_ram_speeds([_device(entry) for entry in file.tables("device", _DEVICE_KEYS, named_by="name")])
    if not devices:
        raise InventoryError(f"{source} has no device: add [[device]] with a name and a card")
    _check_unique(source, [device.name for device in devices])
    hosts = list(dict.fromkeys(device.host for device in devices))
    coordinator = file.text("coordinator") or hosts[0]
    if coordinator not in hosts:
        file.fail(f"the coordinator is on {coordinator!r}, which is no device's host: there are {', '.join(hosts)}")
    network = _link(file.table("network", _LINK_KEYS), _NETWORK)
    links = _links(file, network, hosts, {device.name: device.host for device in devices})
    n_pairs = len(hosts) * (len(hosts) - 1) // 2
    assumed = []
    if "network" not in content and len(links) < n_pairs:
        assumed.append("the network is taken for 1 Gbit/s with a round trip of 0.3 ms: [network] says otherwise")
    unknown = [device.name for device in devices if device.ram_bytes and not device.ram_bytes_per_s]
    if unknown:
        devices = tuple(replace(each, ram_bytes_per_s=each.ram_bytes_per_s or _RAM_BYTES_PER_S) for each in devices)
        assumed.append(f"the ram beside {', '.join(unknown)} is taken for 50 GB/s: ram_bandwidth says otherwise")
    return Inventory(source, devices, coordinator, network, links, tuple(assumed))


_LINK_KEYS = ("bandwidth", "round_trip")
_DEVICE_KEYS = ("name", "card", "kind", "host", "memory", "reserve", "bandwidth", "compute", "ram", "ram_bandwidth")


class _Entry:
    """One table of the file: its values by key, and how to complain about it."""

    def __init__(self, source: str, where: str, values: object, keys: Collection[str]) -> None:
        self._source, self._where = source, where
        if not isinstance(values, dict):
            self.fail("this is no table: write its keys below its heading in brackets")
        self._values: dict[str, Any] = values
        for key in values:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                self.fail(f"there is no key {key!r}: " + (f"is it {near[0]!r}?" if near else _listed(keys)))

    def fail(self, problem: str) -> NoReturn:
        """Raises the error about this entry."""
        raise InventoryError(": ".join(part for part in (self._source, self._where, problem) if part))

    def tables(self, key: str, keys: Collection[str], *, named_by: str = "") -> Iterator[_Entry]:
        """The tables under [[key]]; in messages they go by their value of `named_by`, or by their number."""
        tables = self._values.get(key, [])
        if not isinstance(tables, list):
            self.fail(f"write [[{key}]] with two brackets, as there may be several")
        for number, values in enumerate(tables, start=1):
            name = values.get(named_by) if isinstance(values, dict) else None
            where = f"{key} {name!r}" if isinstance(name, str) and name else f"{key} {number}"
            yield _Entry(self._source, where, values, keys)

    def table(self, key: str, keys: Collection[str]) -> _Entry:
        """The table under [key]; empty if there is none."""
        return _Entry(self._source, key, self._values.get(key, {}), keys)

    def text(self, key: str) -> str | None:
        """A word or some, or None without the key."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            self.fail(f"{key} = {value!r} is no name: write some letters in quotes")
        return value.strip()

    def texts(self, key: str) -> list[str]:
        """A list of words."""
        value = self._values.get(key)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.fail(f'{key} is missing or no list of names: write {key} = ["desk", "attic"]')
        return value

    def read(self, key: str, parse: Callable[[str], _T]) -> _T | None:
        """A value by its parser, which raises ValueError with a sentence; None without the key."""
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # bytes are also written without quotes
        if not isinstance(value, str):
            self.fail(f"{key} = {value!r}: write a number with its unit, in quotes")
        try:
            return parse(value)
        except ValueError as error:
            self.fail(f"{key}: {error}")


def _device(entry: _Entry) -> InventoryDevice:
    name = entry.text("name")
    if name is None:
        entry.fail('name is missing: add one, such as name = "desk"')
    card = entry.read("card", find_card)
    kind = entry.read("kind", _kind) or (card.kind if card else Kind.GPU)
    memory_bytes = entry.read("memory", _memory_bytes) or (card.memory_bytes if card else None)
    if not memory_bytes:
        entry.fail(_missing("memory", card, '"24GiB"'))
    reserve_bytes = entry.read("reserve", parse_size)
    if reserve_bytes is None:
        reserve_bytes = _reserve_bytes(kind, memory_bytes)
    if reserve_bytes >= memory_bytes:
        entry.fail("nothing is left of its memory beside the reserve: lower reserve, or raise memory")
    bytes_per_s = entry.read("bandwidth", parse_bandwidth) or (card.bytes_per_s if card else None)
    if bytes_per_s is None:
        entry.fail(_missing("bandwidth", card, '"936GB/s"'))
    ram_bytes = entry.read("ram", _memory_bytes) or 0
    if ram_bytes and kind is not Kind.GPU:
        entry.fail("ram is memory beside that of a card, and here that is the machine's: write it as memory")
    return InventoryDevice(
        name=name,
        host=entry.text("host") or name,
        label=card.name if card else str(kind),
        kind=kind,
        memory_bytes=memory_bytes,
        reserve_bytes=reserve_bytes,
        bytes_per_s=bytes_per_s,
        flops=entry.read("compute", parse_compute) or (card.flops if card else None),
        ram_bytes=ram_bytes,
        ram_bytes_per_s=entry.read("ram_bandwidth", parse_bandwidth) or 0.0,
    )


def _with_ram_speeds(devices: Sequence[InventoryDevice]) -> tuple[InventoryDevice, ...]:
    """The devices; where one does not say how fast the memory beside it is, its machine's CPU may."""
    of_host = {device.host: device.bytes_per_s for device in devices if device.kind is Kind.CPU}
    return tuple(
        replace(each, ram_bytes_per_s=each.ram_bytes_per_s or of_host.get(each.host, 0.0)) if each.ram_bytes else each
        for each in devices
    )


def _kind(text: str) -> Kind:
    try:
        return Kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is none of {', '.join(Kind)}") from None


def _memory_bytes(text: str) -> int:
    n_bytes = parse_size(text)
    if not 0 < n_bytes <= _MAX_MEMORY_BYTES:
        raise ValueError(f"{text!r} is not what a device has; write a size like 24GiB")
    return n_bytes


def _missing(key: str, card: Card | None, example: str) -> str:
    if card is not None:
        return f"{card.name} comes with {key} of several sizes: add the one you mean, such as {key} = {example}"
    return f'{key} is missing: add it, such as {key} = {example}, or name a card, such as card = "RTX 3090"'


def _reserve_bytes(kind: Kind, memory_bytes: int) -> int:
    if kind is Kind.INTEGRATED_GPU:
        return memory_bytes // (3 if memory_bytes <= _SMALL_UNIFIED_BYTES else 4)
    return min(_CPU_RESERVE_BYTES if kind is Kind.CPU else _GPU_RESERVE_BYTES, memory_bytes // 2)


def _links(file: _Entry, network: Link, hosts: Sequence[str], host_of: dict[str, str]) -> dict[tuple[str, str], Link]:
    links: dict[tuple[str, str], Link] = {}
    for entry in file.tables("link", ("between", *_LINK_KEYS)):
        ends = entry.texts("between")
        if len(ends) != 2 or ends[0] == ends[1]:
            entry.fail("a link is between two hosts: name two in between")
        for end in ends:
            if end not in hosts:
                hint = f"that device is on host {host_of[end]!r}" if end in host_of else f"there are {', '.join(hosts)}"
                entry.fail(f"it leads to {end!r}, which is no host: {hint}")
        first, second = sorted(ends)
        if (first, second) in links:
            entry.fail(f"there is a link between {first} and {second} already: take one of them out")
        links[first, second] = _link(entry, network)
    return links


def _link(entry: _Entry, usual: Link) -> Link:
    round_trip_s = entry.read("round_trip", parse_time)
    return Link(
        round_trip_s=usual.round_trip_s if round_trip_s is None else round_trip_s,
        bytes_per_s=entry.read("bandwidth", parse_bandwidth) or usual.bytes_per_s,
    )


def _check_unique(source: str, names: Sequence[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        n = names.count(twice[0])
        raise InventoryError(f"{source}: device {twice[0]!r} is there {n} times: give each a name of its own")


def _listed(keys: Collection[str]) -> str:
    return f"there are {', '.join(keys)}"
