# SPDX-License-Identifier: MIT
"""Which models leave the store when room is needed: those that nobody used for longest. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

# Without a limit of the user's, the store leaves a tenth of the disk to others, but no more than this: on large disks
# a tenth is a model.
_MAX_SPARE_BYTES = 20 << 30


@dataclass(frozen=True, slots=True)
class Tenant:
    """A model in the store; `last_used` in seconds since the epoch, `n_bytes` on the disk."""

    identity: str
    n_bytes: int
    last_used: float
    is_in_use: bool


def room_bytes(limit_bytes: int | None, taken_bytes: int, free_bytes: int, total_bytes: int) -> int:
    """What may still be written: under the user's limit, or else what leaves others their share of the disk."""
    if limit_bytes is None:
        return free_bytes - min(total_bytes // 10, _MAX_SPARE_BYTES)
    return min(limit_bytes - taken_bytes, free_bytes)


def choose(tenants: Iterable[Tenant], n_bytes: int) -> tuple[Tenant, ...]:
    """Those that have to go for `n_bytes`, least recently used first; all that may go, where that is not enough."""
    chosen: list[Tenant] = []
    for tenant in sorted(tenants, key=lambda tenant: tenant.last_used):
        if n_bytes <= 0:
            break
        if not tenant.is_in_use:
            chosen.append(tenant)
            n_bytes -= tenant.n_bytes
    return tuple(chosen)
