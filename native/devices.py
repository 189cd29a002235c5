# SPDX-License-Identifier: MIT
"""The devices that the installed llama.cpp can compute on."""

from __future__ import annotations

import ctypes as c
import os
from dataclasses import dataclass
from enum import Enum

from native.control_groups import memory_limit
from native.errors import UnknownDeviceError
from native.library import declare, ggml, ggml_base


class DeviceKind(Enum):
    """ggml's device types."""

    CPU = 0
    GPU = 1
    INTEGRATED_GPU = 2
    ACCELERATOR = 3


@dataclass(frozen=True, slots=True)
class Device:
    """A device as llama.cpp names it ("CPU", "CUDA0", "Vulkan1"), with its memory in bytes when it was listed."""

    name: str
    description: str
    backend: str
    kind: DeviceKind
    free_bytes: int
    total_bytes: int


class _PropertiesStruct(c.Structure):
    """struct ggml_backend_dev_props."""

    _fields_ = (
        ("name", c.c_char_p),
        ("description", c.c_char_p),
        ("memory_free", c.c_size_t),
        ("memory_total", c.c_size_t),
        ("type", c.c_int),
        ("device_id", c.c_char_p),
        ("capabilities", c.c_bool * 5),
    )


_backend_count = declare(ggml, "ggml_backend_reg_count", c.c_size_t)
_backend = declare(ggml, "ggml_backend_reg_get", c.c_void_p, c.c_size_t)
_count = declare(ggml, "ggml_backend_dev_count", c.c_size_t)
_get = declare(ggml, "ggml_backend_dev_get", c.c_void_p, c.c_size_t)
_name = declare(ggml_base, "ggml_backend_dev_name", c.c_char_p, c.c_void_p)
_description = declare(ggml_base, "ggml_backend_dev_description", c.c_char_p, c.c_void_p)
_type = declare(ggml_base, "ggml_backend_dev_type", c.c_int, c.c_void_p)
_memory = declare(ggml_base, "ggml_backend_dev_memory", None, c.c_void_p, c.POINTER(c.c_size_t), c.POINTER(c.c_size_t))
_registry = declare(ggml_base, "ggml_backend_dev_backend_reg", c.c_void_p, c.c_void_p)
_registry_name = declare(ggml_base, "ggml_backend_reg_name", c.c_char_p, c.c_void_p)
_properties = declare(ggml_base, "ggml_backend_dev_get_props", None, c.c_void_p, c.c_void_p)
_buffer_type = declare(ggml_base, "ggml_backend_dev_buffer_type", c.c_void_p, c.c_void_p)


def devices() -> list[Device]:
    """Every device of the installed llama.cpp, memory read now. The CPU is always among them, last."""
    return [_describe(handle) for handle in _handles()]


def backends() -> list[str]:
    """What the installed llama.cpp was built with ("CUDA", "Vulkan", "CPU"), whether it finds devices for it or not."""
    return [_registry_name(_backend(i)).decode() for i in range(_backend_count())]


def find_device(name: str | None = None) -> Device:
    """The device of that name; without one, the first GPU, else the CPU.

    Raises:
        UnknownDeviceError: there is none; names those there are.
    """
    return _describe(handle_of(name))


def bus_id(name: str) -> str | None:
    """Where a card is in this machine, "0000:c1:00.0" (PCI domain, bus, device and function); None: its backend does
    not tell, or it is no card. What two backends both name so is one card.

    Raises:
        UnknownDeviceError: there is no such device.
    """
    properties = _PropertiesStruct()
    _properties(handle_of(name), c.byref(properties))
    return properties.device_id.decode() if properties.device_id else None


def handle_of(name: str | None) -> int:
    """ggml's handle of a device, as `find_device` finds it. For the other modules of this room."""
    handles = _handles()
    if name is None:
        gpus = [h for h in handles if _type(h) == DeviceKind.GPU.value]
        return gpus[0] if gpus else cpu_handle()
    for handle in handles:
        if _name(handle).decode().lower() == name.lower():
            return handle
    raise UnknownDeviceError(name, [_name(h).decode() for h in handles])


def cpu_handle() -> int:
    """ggml's handle of the CPU."""
    return next(h for h in _handles() if _type(h) == DeviceKind.CPU.value)


def buffer_type_of(handle: int) -> int:
    """A device's own buffer type."""
    return int(_buffer_type(handle))


def _handles() -> list[int]:
    return [_get(i) for i in range(_count())]


def _describe(handle: int) -> Device:
    free, total = c.c_size_t(), c.c_size_t()
    _memory(handle, c.byref(free), c.byref(total))
    kind = DeviceKind(_type(handle))
    free_bytes, total_bytes = free.value, total.value
    if kind is DeviceKind.CPU:
        free_bytes, total_bytes = _system_bytes(total_bytes)
    return Device(
        name=_name(handle).decode(),
        description=_description(handle).decode(),
        backend=_registry_name(_registry(handle)).decode(),
        kind=kind,
        free_bytes=free_bytes,
        total_bytes=total_bytes,
    )


def _system_bytes(total_bytes: int) -> tuple[int, int]:
    """System memory, free and in all, that this process can have: in a container, what that has."""
    free_bytes = _available_system_bytes(total_bytes)
    limit = memory_limit()
    if limit is None:
        return free_bytes, total_bytes
    return min(free_bytes, limit.free_bytes), min(total_bytes, limit.total_bytes)


def _available_system_bytes(total_bytes: int) -> int:
    """System memory that can be had without swapping; ggml reports the whole of it as free."""
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            for line in meminfo:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total_bytes
