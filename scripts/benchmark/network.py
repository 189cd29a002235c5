# SPDX-License-Identifier: MIT
"""What lies between a benchmark's servers and those that ask them: loopback, or a host of its own for each of them,
with a link of a given speed; and a delay on either.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmark.processes import delayed
from tests.netns.hosts import home, hosts

_BURST = "128kb"
"""Two packets: a link that gives more than that at once has no speed for a frame of some hundred kilobytes."""


class UnavailableError(Exception):
    """What a row needs cannot be had here; the sentence says what."""


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Attributes:
        prefix: What goes before its command.
        host: What it listens on, and is reached by.
    """

    prefix: tuple[str, ...]
    host: str


@dataclass(frozen=True)
class Network:
    """How servers are reached.

    Attributes:
        delay_ms: One way, on each link: made by a forwarder in front of each server, since not every kernel has netem.
        rate: Of each link, in tc's words, like "1gbit"; empty: loopback, which has no limit.
    """

    delay_ms: float = 0.0
    rate: str = ""

    @contextlib.contextmanager
    def places(self, n_places: int) -> Iterator[Sequence[Place]]:
        """So many places for servers, gone with the context.

        Raises:
            UnavailableError: This user or this kernel cannot make them.
        """
        if not self.rate:
            yield [Place((), "127.0.0.1")] * n_places
            return
        if os.geteuid() != 0:
            raise UnavailableError("left out: links of a given speed need network namespaces, which only root may make")
        with hosts(n_places) as made:
            for host in (*made, home(made)):
                host.limit(self.rate, _BURST)
            yield [Place(tuple(host.command()), host.address) for host in made]

    @contextlib.contextmanager
    def address(self, place: Place, port: int) -> Iterator[str]:
        """By what a server's port is reached over its link."""
        with delayed(place.prefix, place.host, port, self.delay_ms) as reached:
            yield f"{place.host}:{reached}"
