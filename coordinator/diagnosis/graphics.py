# SPDX-License-Identifier: MIT
"""Graphics cards of this machine that the installed llama.cpp does not use, with the command that mends it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.diagnosis.devices import Listing
from coordinator.diagnosis.finding import Finding, Verdict
from native import DeviceKind, versions

_PCI_DEVICES = Path("/sys/bus/pci/devices")

_DISPLAY_CLASS = "0x03"
"""PCI class of graphics cards, with or without a socket for a screen."""


@dataclass(frozen=True, slots=True)
class GraphicsCard:
    """A card in this machine's PCI slots: where it is, and its maker's number ("0x10de")."""

    bus_id: str
    vendor: str


@dataclass(frozen=True, slots=True)
class _Build:
    """How llama.cpp is built for a kind of card.

    Attributes:
        backend: What llama.cpp then calls it.
        needs: What must be installed to build it.
        settings: Variables of the build beside CMAKE_ARGS, as a shell takes them.
        look: What tells whether the card's driver works.
    """

    backend: str
    option: str
    needs: str
    look: str
    settings: str = ""


_CUDA = _Build("CUDA", "-DGGML_CUDA=on", "the CUDA toolkit", "nvidia-smi")
_VULKAN = _Build(
    "Vulkan",
    "-DGGML_VULKAN=on",
    "the Vulkan SDK (Debian, Ubuntu: libvulkan-dev glslc spirv-headers)",
    "vulkaninfo --summary",
)
_ROCM = _Build(
    "ROCm", "-DGGML_HIP=on", "ROCm", "rocminfo", 'HIPCXX="$(hipconfig -l)/clang" HIP_PATH="$(hipconfig -R)" '
)  # fmt: skip
_METAL = _Build("MTL", "-DGGML_METAL=on", "Xcode's command line tools", "system_profiler SPDisplaysDataType")
_SYCL = _Build("SYCL", "-DGGML_SYCL=on", "oneAPI", "sycl-ls")
_BUILDS = {build.backend: build for build in (_CUDA, _VULKAN, _ROCM, _METAL, _SYCL)}

_APPLE, _INTEL = "apple", "0x8086"
_VENDORS = {
    "0x10de": "an NVIDIA card",
    "0x1002": "an AMD card",
    _INTEL: "an Intel graphics device",
    _APPLE: "the Mac's GPU",
}


def graphics_cards(pci: Path = _PCI_DEVICES) -> list[GraphicsCard]:
    """This machine's graphics cards, where the system tells (Linux), or is known to have one (macOS)."""
    if sys.platform == "darwin":
        return [GraphicsCard("", _APPLE)]
    folders = [folder for folder in sorted(pci.glob("*")) if _text(folder / "class").startswith(_DISPLAY_CLASS)]
    return [GraphicsCard(folder.name, _text(folder / "vendor")) for folder in folders]


def neglected_card(used: Collection[DeviceKind], cards: Sequence[GraphicsCard]) -> str | None:
    """A sentence about a card where llama.cpp uses no GPU at all; None: it does, or there is no card that is worth a
    word. (Nearly every processor of Intel's has graphics, which workers leave alone.)

    Args:
        used: Kinds of the devices that llama.cpp has.
    """
    vendor = next((card.vendor for card in cards if card.vendor in _VENDORS.keys() - {_INTEL}), None)
    if vendor is None or not {DeviceKind.GPU, DeviceKind.INTEGRATED_GPU}.isdisjoint(used):
        return None
    return f"the installed llama.cpp does not use {_VENDORS[vendor]} of this machine: `caravan doctor` tells what to do"


def unused_cards(listing: Listing, cards: Sequence[GraphicsCard]) -> list[Finding]:
    """A finding for each kind of card that llama.cpp could use and does not.

    Bad where it uses no GPU at all. Where it uses one that does not tell its place, that may be any of `cards`.
    """
    used = [device for device in listing.devices if device.is_graphics]
    if any(device.bus_id is None for device in used):
        return []
    places = {(device.bus_id or "").partition("-")[0] for device in used}
    unused = {card.vendor for card in cards if card.bus_id not in places}
    verdict = Verdict.NOTE if used else Verdict.BAD
    return [_finding(vendor, listing.backends, verdict) for vendor in sorted(unused & _VENDORS.keys())]


def _finding(vendor: str, backends: Sequence[str], verdict: Verdict) -> Finding:
    builds = _builds_for(vendor)
    has = next((build for build in builds if build.backend in backends), None)
    if has is not None:
        text = f"there is {_VENDORS[vendor]}, and llama.cpp, though built with {has.backend}, does not see it"
        remedy = f"does its driver work? `{has.look}` tells; is it hidden by a variable like CUDA_VISIBLE_DEVICES?"
        return Finding("graphics", verdict, text, remedy)
    text = f"there is {_VENDORS[vendor]}, and the installed llama.cpp was built without it"
    return Finding("graphics", verdict, text, f"install {builds[0].needs}, then: {_command(builds[0], backends)}")


def _builds_for(vendor: str) -> list[_Build]:
    """What can use a maker's cards, what to recommend first."""
    if vendor == "0x10de":
        return [_CUDA, _VULKAN]
    if vendor == "0x1002":
        return [_ROCM, _VULKAN] if shutil.which("hipconfig") else [_VULKAN, _ROCM]
    return [_METAL] if vendor == _APPLE else [_VULKAN, _SYCL]


def _command(build: _Build, backends: Sequence[str]) -> str:
    """Builds llama.cpp anew for that card and for those that it uses already."""
    options = [_BUILDS[backend].option for backend in backends if backend in _BUILDS]
    arguments = shlex.quote(" ".join([*options, build.option]))
    return (
        f"{build.settings}CMAKE_ARGS={arguments} {shlex.quote(sys.executable)} -m pip install --force-reinstall"
        " --no-deps --no-cache-dir --no-binary llama-cpp-python"
        f" llama-cpp-python=={versions().llama_cpp_python}"
    )


def _text(file: Path) -> str:
    """Of a small file; empty if it cannot be read."""
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
