# SPDX-License-Identifier: MIT
"""Whether a stage fits, and the sentence when it does not."""

from dataclasses import replace

import pytest

from native import Device, DeviceKind, LayerRange, MemoryUse
from worker.errors import DoesNotFitError
from worker.memory import check_fits, shown

GIB = 1 << 30
CPU = Device("CPU", "a processor", "CPU", DeviceKind.CPU, 4 * GIB, 8 * GIB)
GPU = Device("CUDA0", "a card", "CUDA", DeviceKind.GPU, 4 * GIB, 8 * GIB)
LAYERS = LayerRange(2, 6)


def test_a_stage_that_fits_exactly_fits() -> None:
    check_fits(MemoryUse(3 * GIB, GIB // 2, GIB // 2, 0), LAYERS, CPU, CPU)


def test_a_stage_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(MemoryUse(3 * GIB, GIB, GIB // 2, 0), LAYERS, CPU, CPU)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (4 * GIB + GIB // 2, 4 * GIB)
    assert str(caught.value) == (
        "layers [2, 6) do not fit: they need 4.5 GiB on CPU (weights 3.0 GiB, KV cache 1.0 GiB, compute buffers"
        " 512 MiB), and 4.0 GiB is free; give this worker fewer layers, or ask for a shorter context"
    )


def test_what_lies_in_system_memory_does_not_count_on_the_device() -> None:
    check_fits(MemoryUse(3 * GIB, GIB, GIB, GIB), LAYERS, GPU, CPU)


def test_what_lies_in_system_memory_counts_there() -> None:
    with pytest.raises(DoesNotFitError, match="on system memory"):
        check_fits(MemoryUse(3 * GIB, GIB, GIB, GIB), LAYERS, GPU, replace(CPU, free_bytes=GIB - 1))


def test_bytes_are_shown_in_units_people_read() -> None:
    assert (shown(3 * GIB // 2), shown(300 << 20)) == ("1.5 GiB", "300 MiB")
