# SPDX-License-Identifier: MIT
"""Several hosts on one machine: network namespaces on a switch, each with an address, a link whose speed can be set,
and counters of the bytes that crossed it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Frames as large as loopback's, so that their headers are a thousandth of what they carry.
_MTU = 65000
# Ethernet, IPv4, TCP with time stamps.
_HEADER_BYTES = 14 + 20 + 32
# Of the token bucket: more than a link of 10 Gbit/s sends between two ticks of the kernel's clock.
_BURST = "4mb"
_MOST_WAIT = "50ms"
# Another one for each process, since all of them may put the machine itself on a switch of theirs.
_SUBNET = f"10.77.{os.getpid() % 256}"

# For `Host.lose`, in the kernel's packet filter language, which every kernel with tc has where netem is rare: a random
# number of 32 bits, and what becomes of a packet if that is at least so much, and if it is less.
_LOAD_RANDOM = "32 0 0 4294963256"
_JUMP_IF_AT_LEAST = "53 0 1"
_PASS, _DROP = "6 0 0 0", "6 0 0 2"

_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """A machine of its own as far as the network goes."""

    namespace: str
    address: str
    switch: str
    port_of_switch: str
    device: str = "lan"

    def command(self, *program: str) -> list[str]:
        """What runs a program there."""
        return ["ip", "netns", "exec", self.namespace, *program] if self.namespace else list(program)

    def limit(self, rate: str, burst: str = _BURST) -> None:
        """Limits both directions of its link, in tc's words, like "1gbit"."""
        shaping = ["root", "tbf", "rate", rate, "burst", burst, "latency", _MOST_WAIT]
        _run(*self.command("tc", "qdisc", "replace", "dev", self.device, *shaping))
        self._on_switch("tc", "qdisc", "replace", "dev", self.port_of_switch, *shaping)

    def pull_cable(self) -> None:
        """Its link is down: no packet comes or goes, and nobody is told."""
        self._set_port("down")

    def plug_in(self) -> None:
        """The link is up again."""
        self._set_port("up")

    def lose(self, share: float) -> None:
        """From now on the switch drops that share of the packets, of each direction, at random, one by one; nobody is
        told. CalledProcessError: this kernel cannot."""
        self._on_switch("tc", "qdisc", "add", "dev", self.port_of_switch, "clsact")
        program = f"4,{_LOAD_RANDOM},{_JUMP_IF_AT_LEAST} {int(share * 2**32)},{_PASS},{_DROP}"
        for direction in ("ingress", "egress"):
            dropping = ["protocol", "all", "bpf", "direct-action", "bytecode", program]
            self._on_switch("tc", "filter", "add", "dev", self.port_of_switch, direction, *dropping)

    def lose_nothing(self) -> tuple[int, int]:
        """The end of `lose`; gives how many packets came to the switch meanwhile, and how many of them it dropped."""
        said = self._on_switch("tc", "-s", "-j", "qdisc", "show", "dev", self.port_of_switch)
        self._on_switch("tc", "qdisc", "delete", "dev", self.port_of_switch, "clsact")
        counters = next(qdisc for qdisc in json.loads(said) if qdisc["kind"] == "clsact")
        return counters["packets"], counters["drops"]

    def run(self, *program: str) -> None:
        """Runs a program there, to its end."""
        _run(*self.command(*program))

    @property
    def received_bytes(self) -> int:
        """All that came over its link so far, without the headers of Ethernet, IP and TCP."""
        return self._count("rx_bytes") - _HEADER_BYTES * self._count("rx_packets")

    @property
    def sent_bytes(self) -> int:
        """The same for what left."""
        return self._count("tx_bytes") - _HEADER_BYTES * self._count("tx_packets")

    def _set_port(self, state: str) -> None:
        self._on_switch("ip", "link", "set", self.port_of_switch, state)

    def _on_switch(self, *program: str) -> str:
        return _run("ip", "netns", "exec", self.switch, *program)

    def _count(self, counter: str) -> int:
        return int(_run(*self.command("cat", f"/sys/class/net/{self.device}/statistics/{counter}")))


@contextlib.contextmanager
def hosts(n_hosts: int) -> Iterator[Sequence[Host]]:
    """So many hosts on one switch, which is gone with them at the end; needs the right to make network namespaces."""
    prefix = f"caravan-{os.getpid()}-{next(_numbers)}"
    switch = f"{prefix}-switch"
    made: list[str] = []
    try:
        _make_namespace(switch, made)
        _run("ip", "netns", "exec", switch, "ip", "link", "add", "bridge", "type", "bridge")
        _run("ip", "netns", "exec", switch, "ip", "link", "set", "bridge", "mtu", str(_MTU), "up")
        yield [_make_host(switch, f"{prefix}-{number}", number, made) for number in range(1, n_hosts + 1)]
    finally:
        for namespace in reversed(made):
            _run("ip", "netns", "delete", namespace)


def home(others: Sequence[Host]) -> Host:
    """The machine itself as one more host on the switch of the others, for programs that stay on it. Its link goes when
    the switch goes."""
    switch = others[0].switch
    host = Host("", f"{_SUBNET}.254", switch, "home", f"caravan{os.getpid()}")
    _run(
        "ip", "link", "add", host.port_of_switch, "netns", switch, "mtu", str(_MTU), "type", "veth",
        "peer", "name", host.device, "mtu", str(_MTU),
    )  # fmt: skip
    _run("ip", "netns", "exec", switch, "ip", "link", "set", host.port_of_switch, "master", "bridge", "up")
    _run("ip", "address", "add", f"{host.address}/24", "dev", host.device)
    _run("ip", "link", "set", host.device, "up")
    return host


def _make_host(switch: str, namespace: str, number: int, made: list[str]) -> Host:
    _make_namespace(namespace, made)
    host = Host(namespace, f"{_SUBNET}.{number}", switch, f"port{number}")
    _run(
        "ip", "link", "add", host.port_of_switch, "netns", switch, "mtu", str(_MTU), "type", "veth",
        "peer", "name", "lan", "netns", namespace, "mtu", str(_MTU),
    )  # fmt: skip
    _run("ip", "netns", "exec", switch, "ip", "link", "set", host.port_of_switch, "master", "bridge", "up")
    _run(*host.command("ip", "address", "add", f"{host.address}/24", "dev", "lan"))
    _run(*host.command("ip", "link", "set", "lan", "up"))
    _run(*host.command("ip", "link", "set", "lo", "up"))
    return host


def _make_namespace(name: str, made: list[str]) -> None:
    _run("ip", "netns", "add", name)
    made.append(name)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
