# SPDX-License-Identifier: MIT
"""What drivers tell of a card, in our units; and what becomes of one that does not tell."""

from pathlib import Path

import pynvml
import pytest

from worker import kernel, nvml
from worker.figures import CardFigures, DriverError, Figure
from worker.telemetry import Card, Telemetry, card_at

CARD = "0000:c1:00.0"


def _has_nvml() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n")
    return folder


@pytest.fixture
def amd_card(tmp_path: Path) -> Path:
    """What amdgpu writes about a card, below a /sys of its own."""
    device = tmp_path / "bus" / "pci" / "devices" / CARD
    _write(device, gpu_busy_percent="43", mem_info_vram_used="6442450944")
    _write(device / "hwmon" / "hwmon3", temp1_input="61000", power1_average="180500000", power1_cap="303000000")
    return tmp_path


def test_the_processor_is_told_of() -> None:
    (told,) = Telemetry(["CPU"]).read()
    assert told.device == "CPU"
    assert told.used_bytes is not None
    assert told.used_bytes > 0
    if Path("/proc/stat").exists():
        assert told.utilisation is not None
        assert 0 <= told.utilisation <= 1


def test_utilisation_is_what_was_not_idle_since_the_last_look(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 0 1000 9000 1000 0 0 0 500 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    ((figure, gauge),) = kernel.processor_gauges(proc=tmp_path, sys=tmp_path)
    assert (figure, gauge()) == (Figure.UTILISATION, None)
    stat.write_text("cpu  1060 0 1010 9020 1010 0 0 0 550 0\n")
    assert gauge() == pytest.approx(0.7)
    assert gauge() == pytest.approx(0.7)


@pytest.mark.parametrize("text", ["", "cpu  1 2 3\n", "cpu  a b c d e f g h\n"])
def test_a_kernel_that_writes_something_else_is_not_asked(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    with pytest.raises(DriverError):
        kernel.processor_gauges(proc=tmp_path, sys=tmp_path)


def test_a_processors_temperature_is_found_among_other_sensors(tmp_path: Path) -> None:
    sensors = tmp_path / "class" / "hwmon"
    _write(sensors / "hwmon0", name="nvme", temp1_input="38850")
    _write(sensors / "hwmon1", name="k10temp", temp1_input="54125")
    _write(tmp_path / "class" / "thermal" / "thermal_zone0", type="x86_pkg_temp", temp="53000")
    gauges = kernel.processor_gauges(proc=tmp_path, sys=tmp_path)
    assert [(figure, gauge()) for figure, gauge in gauges] == [
        (Figure.TEMPERATURE_C, 54.125),
        (Figure.TEMPERATURE_C, 53.0),
    ]


def test_an_amd_card_is_told_of_in_our_units(amd_card: Path) -> None:
    card = Card("Vulkan0", lambda _: kernel.card_gauges(CARD, amd_card))
    assert card.read() == CardFigures("Vulkan0", 6 << 30, 0.43, 61.0, 180.5, 303.0)
    assert kernel.card_gauges("0000:c2:00.0", amd_card) == []


def test_a_driver_that_fails_once_is_not_asked_again_and_the_next_one_is(amd_card: Path) -> None:
    backend = (Figure.USED_BYTES, lambda: 5 << 30)
    card = Card("Vulkan0", lambda _: [*kernel.card_gauges(CARD, amd_card), backend])
    files = amd_card / "bus" / "pci" / "devices" / CARD
    (files / "gpu_busy_percent").unlink()
    (files / "mem_info_vram_used").write_text("lots")
    assert card.read() == CardFigures("Vulkan0", 5 << 30, None, 61.0, 180.5, 303.0)
    (files / "gpu_busy_percent").write_text("43")
    (files / "mem_info_vram_used").write_text("1")
    assert card.read() == CardFigures("Vulkan0", 5 << 30, None, 61.0, 180.5, 303.0)


@pytest.mark.skipif(_has_nvml(), reason="there is an NVIDIA driver here")
def test_no_nvidia_driver_is_no_reason_to_fail() -> None:
    with pytest.raises(DriverError, match="NVML"):
        nvml.gauges(CARD)


def test_nvmls_results_are_told_in_our_units() -> None:
    raw: dict[Figure, object] = {
        Figure.USED_BYTES: pynvml.c_nvmlMemory_t(total=24 << 30, free=18 << 30, used=6 << 30),
        Figure.UTILISATION: pynvml.c_nvmlUtilization_t(gpu=43, memory=99),
        Figure.TEMPERATURE_C: 61,
        Figure.POWER_W: 180_500,
        Figure.POWER_LIMIT_W: 350_000,
    }
    told = {figure: translate(raw[figure]) for figure, _, _, translate in nvml.FIGURES}
    assert told == {
        Figure.USED_BYTES: 6 << 30,
        Figure.UTILISATION: 0.43,
        Figure.TEMPERATURE_C: 61.0,
        Figure.POWER_W: 180.5,
        Figure.POWER_LIMIT_W: 350.0,
    }


def test_every_function_that_nvml_is_asked_for_is_there() -> None:
    assert all(callable(getattr(pynvml, function)) for _, function, _, _ in nvml.FIGURES)
    assert pynvml.NVML_TEMPERATURE_GPU == 0


def test_a_cards_place_is_read_from_what_llama_cpp_calls_it() -> None:
    assert card_at(CARD) == CARD
    assert card_at(f"{CARD}-v1") == CARD
    assert card_at("00000001:c1:00.0") == "00000001:c1:00.0"
    for other in (None, "", "metal", "../../etc", "0000:c1:00"):
        assert card_at(other) is None
