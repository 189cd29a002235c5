# SPDX-License-Identifier: MIT
"""What `caravan doctor` makes of a machine's devices and of its mDNS port."""

import json
import socket
import sys
from pathlib import Path

import pytest

from coordinator.diagnosis import Verdict
from coordinator.diagnosis.devices import ListedDevice, Listing, device_findings, listed_devices, parse_listing
from coordinator.diagnosis.graphics import GraphicsCard, graphics_cards, neglected_card, unused_cards
from coordinator.diagnosis.multicast import heard_on
from coordinator.diagnosis.reaching import reaching_findings
from coordinator.workers import BuildVersions, CardFigures, FoundWorker, WorkerDevice
from native import DeviceKind, devices, versions
from protos.channels import PLAIN

GIB = 1 << 30
TOLD = CardFigures("CUDA0", 4 * GIB, 0.43, 61.0, 180.4, 350.0)
CPU = ListedDevice("CPU", "a processor", "CPU", "cpu", None, 8 * GIB, 16 * GIB, True, CardFigures("CPU"))
GPU = ListedDevice("CUDA0", "a card", "CUDA", "gpu", "0000:01:00.0", 20 * GIB, 24 * GIB, True, TOLD)
APU = ListedDevice("Vulkan0", "a chip", "Vulkan", "integrated_gpu", None, GIB, GIB, False, CardFigures("Vulkan0"))

NVIDIA = GraphicsCard("0000:01:00.0", "0x10de")
AMD = GraphicsCard("0000:c1:00.0", "0x1002")
INTEL = GraphicsCard("0000:00:02.0", "0x8086")


def test_each_device_is_told_with_its_memory_its_figures_and_how_to_use_it() -> None:
    findings = device_findings([GPU, APU, CPU])
    assert {finding.verdict for finding in findings} == {Verdict.GOOD}
    assert [finding.text for finding in findings] == [
        "a card, 20.0 GiB free of 24.0 GiB; 4.0 GiB used, 43% busy, 61 °C, 180 of 350 W; `caravan worker` uses it",
        "a chip, 1.0 GiB free of 1.0 GiB; `caravan worker --integrated` uses it",
        "a processor, 8.0 GiB free of 16.0 GiB; `caravan worker` uses it",
    ]


async def test_the_workers_program_tells_of_this_machines_devices() -> None:
    listing = await listed_devices()
    assert [device.name for device in listing.devices] == [device.name for device in devices()]
    assert any(device.is_chosen for device in listing.devices)
    assert "CPU" in listing.backends


async def test_a_closed_port_for_weights_is_named_with_its_machine_and_what_opens_it() -> None:
    build, device = BuildVersions("", "", "", ""), WorkerDevice("CPU", "", "", "cpu", 0, 0, 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        worker = FoundWorker("attic", "1", "127.0.0.1:1", "attic-pc", "1", build, device, weights_port=port)
        (finding,) = await reaching_findings([worker], PLAIN)
    assert finding.verdict is Verdict.BAD
    assert f"its port for weights, 127.0.0.1:{port}, cannot be reached" in finding.text
    assert f"on attic-pc let TCP port {port} in" in finding.remedy
    assert "`caravan worker --listen 0.0.0.0:PORT` there keeps to PORT for calls and the next one" in finding.remedy


def test_a_listing_that_is_none_is_an_error() -> None:
    for output in ("", "[]", '{"devices": []}', json.dumps({"devices": [{"name": "CPU"}], "backends": []})):
        with pytest.raises((ValueError, KeyError, TypeError)):
            parse_listing(output)


@pytest.mark.parametrize(("card", "option"), [(NVIDIA, "CUDA"), (AMD, "VULKAN"), (INTEL, "VULKAN")])
def test_a_card_that_the_build_cannot_use_comes_with_the_command_that_mends_it(card: GraphicsCard, option: str) -> None:
    (finding,) = unused_cards(Listing((CPU,), ("CPU",)), [card])
    assert finding.verdict is Verdict.BAD
    assert f"CMAKE_ARGS=-DGGML_{option}=on {sys.executable} -m pip install --force-reinstall" in finding.remedy
    assert finding.remedy.endswith(f"llama-cpp-python=={versions().llama_cpp_python}")


def test_with_rocm_installed_an_amd_card_is_for_rocm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hipconfig").write_text("#!/bin/sh\n")
    (tmp_path / "hipconfig").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = unused_cards(Listing((CPU,), ("CPU",)), [AMD])
    assert 'HIPCXX="$(hipconfig -l)/clang" HIP_PATH="$(hipconfig -R)" CMAKE_ARGS=-DGGML_HIP=on' in finding.remedy


def test_a_card_that_nothing_uses_is_told_where_a_worker_is_started_here() -> None:
    told = neglected_card([DeviceKind.CPU], [INTEL, NVIDIA])
    assert told is not None
    assert "an NVIDIA card" in told
    assert "caravan doctor" in told
    assert neglected_card([DeviceKind.GPU, DeviceKind.CPU], [NVIDIA, AMD]) is None
    assert neglected_card([DeviceKind.CPU], [INTEL]) is None


def test_the_macs_gpu_is_for_metal() -> None:
    (finding,) = unused_cards(Listing((CPU,), ("CPU", "BLAS")), [GraphicsCard("", "apple")])
    assert "CMAKE_ARGS=-DGGML_METAL=on" in finding.remedy


def test_a_card_beside_one_in_use_is_noted_with_a_build_for_both() -> None:
    (finding,) = unused_cards(Listing((GPU, CPU), ("CUDA", "CPU")), [NVIDIA, AMD])
    assert finding.verdict is Verdict.NOTE
    assert "CMAKE_ARGS='-DGGML_CUDA=on -DGGML_VULKAN=on'" in finding.remedy


def test_no_rebuild_helps_against_a_driver_that_does_not_work() -> None:
    (finding,) = unused_cards(Listing((CPU,), ("CUDA", "CPU")), [NVIDIA])
    assert finding.verdict is Verdict.BAD
    assert "`nvidia-smi`" in finding.remedy
    assert "pip" not in finding.remedy


def test_a_card_in_use_is_no_trouble() -> None:
    assert unused_cards(Listing((GPU, CPU), ("CUDA", "CPU")), [NVIDIA]) == []
    assert unused_cards(Listing((APU, CPU), ("Vulkan", "CPU")), [INTEL, AMD]) == []


def test_graphics_of_other_makers_are_not_llama_cpps_business() -> None:
    assert unused_cards(Listing((CPU,), ("CPU",)), [GraphicsCard("0000:00:01.0", "0x1234")]) == []


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac is known to have one")
def test_graphics_cards_are_those_that_the_system_tells(tmp_path: Path) -> None:
    for bus_id, kind, vendor in (
        ("0000:c1:00.0", "0x030000", "0x1002"),
        ("0000:01:00.0", "0x030200", "0x10de"),
        ("0000:02:00.0", "0x020000", "0x8086"),
    ):
        (tmp_path / bus_id).mkdir()
        (tmp_path / bus_id / "class").write_text(f"{kind}\n")
        (tmp_path / bus_id / "vendor").write_text(f"{vendor}\n")
    (tmp_path / "0000:03:00.0").mkdir()
    assert graphics_cards(tmp_path) == [NVIDIA, AMD]


def test_what_is_sent_to_mdns_is_heard() -> None:
    assert heard_on(["127.0.0.1", "203.0.113.7"]) == {"127.0.0.1"}


def test_a_port_that_another_program_has_alone_is_an_error() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 0))
        with pytest.raises(OSError, match="in use"):
            heard_on(["127.0.0.1"], other.getsockname()[1])
