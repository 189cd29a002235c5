# SPDX-License-Identifier: MIT
"""What `caravan doctor` makes of a machine's devices."""

import sys

import pytest

from coordinator.diagnosis import Verdict, device_findings, graphics_vendors
from native import Device, DeviceKind, versions

GIB = 1 << 30
CPU = Device("CPU", "a processor", "CPU", DeviceKind.CPU, 8 * GIB, 16 * GIB)
GPU = Device("CUDA0", "a card", "CUDA", DeviceKind.GPU, 20 * GIB, 24 * GIB)


def test_each_device_is_told_with_its_memory() -> None:
    (finding,) = device_findings([CPU], [])
    assert (finding.subject, finding.verdict) == ("CPU", Verdict.GOOD)
    assert finding.text == "a processor, 8.0 GiB free of 16.0 GiB"


@pytest.mark.parametrize(("vendor", "option"), [("0x10de", "CUDA"), ("0x1002", "VULKAN"), ("0x8086", "VULKAN")])
def test_a_card_that_the_build_cannot_use_comes_with_the_command_that_mends_it(vendor: str, option: str) -> None:
    _, finding = device_findings([CPU], [vendor])
    assert finding.verdict is Verdict.BAD
    assert f"CMAKE_ARGS=-DGGML_{option}=on {sys.executable} -m pip install --force-reinstall" in finding.remedy
    assert finding.remedy.endswith(f"llama-cpp-python=={versions().llama_cpp_python}")


def test_a_card_in_use_is_no_trouble() -> None:
    assert all(finding.verdict is Verdict.GOOD for finding in device_findings([GPU, CPU], ["0x10de"]))


def test_graphics_of_other_makers_are_not_llama_cpps_business() -> None:
    assert len(device_findings([CPU], ["0x1234"])) == 1


def test_the_vendors_are_those_that_the_system_tells() -> None:
    assert all(vendor.startswith("0x") for vendor in graphics_vendors())
