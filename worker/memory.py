# SPDX-License-Identifier: MIT
"""Whether a stage fits: what a dry run says it takes, against what is free. Pure; called before any weight moves."""

from native import Device, DeviceKind, LayerRange, MemoryUse
from worker.errors import DoesNotFitError


def check_fits(use: MemoryUse, layers: LayerRange, device: Device, system: Device) -> None:
    """Raises DoesNotFitError, with the numbers in a sentence, if `use` exceeds what is free.

    Args:
        use: by the dry run; `host_bytes` of it lie in system memory though the device is another.
        device: where the stage would be, its free memory read just now.
        system: the CPU device, likewise.
    """
    if use.device_bytes > device.free_bytes:
        raise _does_not_fit(use, layers, device.name, use.device_bytes, device.free_bytes)
    if device.kind is not DeviceKind.CPU and use.host_bytes > system.free_bytes:
        raise _does_not_fit(use, layers, "system memory", use.host_bytes, system.free_bytes)


def _does_not_fit(
    use: MemoryUse, layers: LayerRange, place: str, needed_bytes: int, free_bytes: int
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
        f" {shown(free_bytes)} is free; give this worker fewer layers, or ask for a shorter context",
        needed_bytes=needed_bytes,
        free_bytes=free_bytes,
    )


def shown(n_bytes: int) -> str:
    """Bytes for people: "7.6 GiB", "310 MiB"."""
    gib = n_bytes / (1 << 30)
    if gib >= 1:
        return f"{gib:.1f} GiB"
    return f"{n_bytes / (1 << 20):.0f} MiB"
