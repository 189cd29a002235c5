# SPDX-License-Identifier: MIT
"""The model's own server, as one fetch knows it: where its parts are read by now, and whether anything came from there.
Guarded by its fetch's lock; the clock is the caller's.
"""

import logging
from collections.abc import Sequence

from worker.weights.address import Address
from worker.weights.internet import CONNECT_S, Internet

_LOG = logging.getLogger(__name__)

# One begins, to see whether there is a way to the server at all.
N_CONNECTIONS = 8
# For its name to be found, and it to be reached, and to give a byte.
_REACH_S = CONNECT_S + 2.0


class ModelServer:
    """From when a fetch begins until it has to do without."""

    def __init__(self, addresses: Sequence[Address], internet: Internet | None) -> None:
        """`addresses` are of all parts, in order; without `internet`, or with no addresses, there is no such server."""
        self.internet = internet if addresses else None
        self._addresses = list(addresses)
        self._was_reached = False
        self._reach_until: float | None = None

    @property
    def shown(self) -> str:
        """For sentences."""
        return self._addresses[0].shown

    def address(self, part: int) -> Address:
        """Where that part is read by now."""
        return self._addresses[part]

    def renew(self, part: int, address: Address) -> None:
        """It is read there now."""
        self._addresses[part] = address

    def asked(self, now: float) -> None:
        """It was asked for something: from the first time on it has a while to answer."""
        if not self._was_reached and self._reach_until is None:
            self._reach_until = now + _REACH_S

    def answered(self) -> int:
        """Something came from it; how many more connections are worth it."""
        self._reach_until = None
        was_reached, self._was_reached = self._was_reached, True
        return 0 if was_reached else N_CONNECTIONS - 1

    def is_late(self, now: float) -> bool:
        """Whether it should have given something by now, and has not."""
        return self._reach_until is not None and now > self._reach_until

    def do_without(self, reason: str) -> None:
        """It is asked no more, which is said once: the coordinator gives then, and nothing fails."""
        if self.internet is None:
            return
        _LOG.warning("%s: what is missing comes from the coordinator", reason)
        if not self._was_reached:
            self.internet.note_no_way(self._addresses[0])
        self.internet = self._reach_until = None
