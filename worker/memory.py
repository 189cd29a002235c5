# SPDX-License-Identifier: MIT
"""How much memory there is for a stage, on its device and beside it in system memory, and whether it fits: what a dry
run says it takes, against what is free. Pure; called before any weight moves.
"""

from dataclasses import dataclass, replace

from native import Device, DeviceKind, MemoryUse
from protos.sizes import size
from worker.errors import DoesNotFitError
from worker.session import StageSpec

# What experts leave of system memory unless --ram says how much they may take: the system itself, a desktop and this
# process live there too, and where they are swapped out every token waits for a disk.
_LEFT_TO_SYSTEM_BYTES = 2 << 30
_LEFT_TO_SYSTEM_PART = 10

# What ggml calls the backend of Apple's devices, whose memory is the system's though their kind is GPU.
_METAL = "MTL"


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of system memory, and for a sentence what bounds them and how there would be more."""

    n_bytes: int
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """What a worker may take: of its device `max_bytes` at most, and so that `reserve_bytes` stay free; beside it, of
    system memory, `max_host_bytes` at most.

    On the CPU, which has no other memory, `max_host_bytes` alone bounds the whole. With `max_bytes` too, that bounds
    what counts as the device, `max_host_bytes` the experts that count as beside it, and what is free both together.

    `taken_bytes` of what bounds the device are another stage's of this worker.
    """

    max_bytes: int | None = None
    reserve_bytes: int = 0
    max_host_bytes: int | None = None
    taken_bytes: int = 0

    def apply(self, device: Device, held_bytes: int = 0) -> Device:
        """The device as this worker may use it, whose own stage holds `held_bytes` of it already."""
        free_bytes, total_bytes = device.free_bytes - self.reserve_bytes, device.total_bytes
        limit_bytes, _ = self._on(device)
        if limit_bytes is not None:
            free_bytes = min(free_bytes, limit_bytes - held_bytes)
            total_bytes = min(total_bytes, limit_bytes)
        return replace(device, free_bytes=max(0, free_bytes), total_bytes=total_bytes)

    def shared(self, device: Device) -> int:
        """Bytes free on the device for all workers on it together, as far as this one has a say."""
        return max(0, device.free_bytes - self.reserve_bytes)

    def host_free(self, device: Device, system: Device, held: MemoryUse) -> int:
        """Bytes of system memory that experts may have, whatever the device is given of what is promised there.

        Args:
            device: as it is, not as `apply` gives it.
            system: the CPU device.
            held: by this worker's own stage already.
        """
        device_bytes = self.apply(device, held.device_bytes).free_bytes
        return self.host_room(device, system, device_bytes, held.host_bytes).n_bytes

    def host_room(self, device: Device, system: Device, device_bytes: int, held_bytes: int = 0) -> Room:
        """As `host_free`, for a stage that takes `device_bytes` on the device."""
        if device.kind is DeviceKind.CPU:
            if self.max_bytes is None or self.max_host_bytes is None:
                return Room(0, " without both --memory and --ram", "start this worker with both")
            return self._within_ram(self.shared(device) - device_bytes, held_bytes)
        if self.max_host_bytes is not None:
            return self._within_ram(system.free_bytes, held_bytes)
        if device.kind is DeviceKind.INTEGRATED_GPU or device.backend == _METAL:
            return Room(0, f" for experts, as the memory of {device.name} is the system's", "say how much with --ram")
        left_bytes = max(_LEFT_TO_SYSTEM_BYTES, system.total_bytes // _LEFT_TO_SYSTEM_PART)
        why = f" for experts beside the {size(left_bytes)} that are left to the system"
        return Room(max(0, system.free_bytes - left_bytes), why, "say with --ram that they may have more")

    def named(self, device: Device) -> str:
        """Which option decides what is free on `device`, for a sentence; empty if none does."""
        limit_bytes, option = self._on(device)
        if limit_bytes is not None and limit_bytes < device.free_bytes - self.reserve_bytes:
            taken = f", of which {size(self.taken_bytes)} are taken" if self.taken_bytes else ""
            return f" within its {option} of {size(limit_bytes + self.taken_bytes)}{taken}"
        if self.reserve_bytes:
            return f" beside its --reserve of {size(self.reserve_bytes)}"
        return ""

    def _on(self, device: Device) -> tuple[int | None, str]:
        """What bounds a stage on the device, and the option that says so."""
        limit_bytes, option = self.max_bytes, "--memory"
        if limit_bytes is None and device.kind is DeviceKind.CPU:
            limit_bytes, option = self.max_host_bytes, "--ram"
        return None if limit_bytes is None else max(0, limit_bytes - self.taken_bytes), option

    def _within_ram(self, free_bytes: int, held_bytes: int) -> Room:
        assert self.max_host_bytes is not None
        if self.max_host_bytes - held_bytes < free_bytes:
            why = f" within its --ram of {size(self.max_host_bytes)}"
            return Room(max(0, self.max_host_bytes - held_bytes), why, "start this worker with a larger --ram")
        return Room(max(0, free_bytes), "", "close other programs")


UNLIMITED = MemoryLimits()


def check_fits(use: MemoryUse, spec: StageSpec, device: Device, system: Device, limits: MemoryLimits) -> None:
    """Raises DoesNotFitError, with the numbers in a sentence, if `use` exceeds what is free.

    Args:
        use: of `spec`, by the dry run.
        device: where the stage would be, its free memory read just now.
        system: the CPU device, likewise.
        limits: of this worker.
    """
    free_bytes = limits.apply(device).free_bytes
    if use.device_bytes > free_bytes:
        free = f"{size(free_bytes)} is free{limits.named(device)}"
        remedy = "give this worker fewer layers, or ask for a shorter context"
        raise _does_not_fit(use, spec, device.name, use.device_bytes, free_bytes, free, remedy)
    room = limits.host_room(device, system, use.device_bytes)
    if not spec.n_cpu_moe and limits.max_host_bytes is None:
        # The embedding and llama.cpp's own buffers may have what experts have to leave.
        room = Room(system.free_bytes, "", "close other programs")
    if use.host_bytes > room.n_bytes:
        free = f"{size(room.n_bytes)} is free{room.why}"
        remedy = (
            f"give this worker fewer layers{', keep fewer experts there' if spec.n_cpu_moe else ''}, or {room.remedy}"
        )
        raise _does_not_fit(use, spec, "system memory", use.host_bytes, room.n_bytes, free, remedy)


def _does_not_fit(
    use: MemoryUse, spec: StageSpec, place: str, needed_bytes: int, free_bytes: int, free: str, remedy: str
) -> DoesNotFitError:
    parts = ", ".join(
        f"{name} {size(n_bytes)}"
        for name, n_bytes in (
            ("weights", use.weights_bytes),
            ("KV cache", use.kv_bytes),
            ("compute buffers", use.compute_bytes),
        )
    )
    if use.host_bytes:
        parts = f"in both places: {parts}"
    return DoesNotFitError(
        f"layers {spec.layers} do not fit: they need {size(needed_bytes)} on {place} ({parts}), and {free}; {remedy}",
        needed_bytes=needed_bytes,
        free_bytes=free_bytes,
    )
