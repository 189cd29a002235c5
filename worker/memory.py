# SPDX-License-Identifier: MIT
"""How much memory there is for a stage, and whether it fits: what a dry run says it takes, against what is free. Pure;
called before any weight moves.
"""

from dataclasses import dataclass, replace

from native import Device, DeviceKind, LayerRange, MemoryUse
from protos.sizes import shown
from worker.errors import DoesNotFitError


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """What a worker may take of its device: `max_bytes` at most, and so that `reserve_bytes` stay free."""

    max_bytes: int | None = None
    reserve_bytes: int = 0

    def apply(self, device: Device, held_bytes: int = 0) -> Device:
        """The device as this worker may use it, whose own stage holds `held_bytes` of it already."""
        free_bytes, total_bytes = device.free_bytes - self.reserve_bytes, device.total_bytes
        if self.max_bytes is not None:
            free_bytes = min(free_bytes, self.max_bytes - held_bytes)
            total_bytes = min(total_bytes, self.max_bytes)
        return replace(device, free_bytes=max(0, free_bytes), total_bytes=total_bytes)

    def shared(self, device: Device) -> int:
        """Bytes free on the device for all workers on it together, as far as this one has a say."""
        return max(0, device.free_bytes - self.reserve_bytes)

    def named(self, device: Device) -> str:
        """Which option decides what is free on `device`, for a sentence; empty if none does."""
        if self.max_bytes is not None and self.max_bytes < device.free_bytes - self.reserve_bytes:
            return f" within its --memory of {shown(self.max_bytes)}"
        if self.reserve_bytes:
            return f" beside its --reserve of {shown(self.reserve_bytes)}"
        return ""


UNLIMITED = MemoryLimits()


def check_fits(use: MemoryUse, layers: LayerRange, device: Device, system: Device, limits: MemoryLimits) -> None:
    """Raises DoesNotFitError, with the numbers in a sentence, if `use` exceeds what is free.

    Args:
        use: by the dry run; `host_bytes` of it lie in system memory though the device is another.
        device: where the stage would be, its free memory read just now.
        system: the CPU device, likewise.
        limits: of this worker, on `device`.
    """
    free_bytes = limits.apply(device).free_bytes
    if use.device_bytes > free_bytes:
        free = f"{shown(free_bytes)} is free{limits.named(device)}"
        raise _does_not_fit(use, layers, device.name, use.device_bytes, free_bytes, free)
    if device.kind is not DeviceKind.CPU and use.host_bytes > system.free_bytes:
        free = f"{shown(system.free_bytes)} is free"
        raise _does_not_fit(use, layers, "system memory", use.host_bytes, system.free_bytes, free)


def _does_not_fit(
    use: MemoryUse, layers: LayerRange, place: str, needed_bytes: int, free_bytes: int, free: str
) -> DoesNotFitError:
    parts = ", ".join(
        f"{name} {shown(n_bytes)}"
        for name, n_bytes in (
            ("weights", use.weights_bytes),
            ("KV cache", use.kv_bytes),
            ("compute buffers", use.compute_bytes),
        )
    )
    return DoesNotFitError(
        f"layers {layers} do not fit: they need {shown(needed_bytes)} on {place} ({parts}), and"
        f" {free}; give this worker fewer layers, or ask for a shorter context",
        needed_bytes=needed_bytes,
        free_bytes=free_bytes,
    )
