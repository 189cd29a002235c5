# SPDX-License-Identifier: MIT
"""How much memory a worker may use, whether a stage fits, and the sentence when it does not."""

from dataclasses import replace

import pytest

from native import Device, DeviceKind, LayerRange, MemoryUse
from worker.errors import DoesNotFitError
from worker.memory import UNLIMITED, MemoryLimits, check_fits

GIB = 1 << 30
CPU = Device("CPU", "a processor", "CPU", DeviceKind.CPU, 4 * GIB, 8 * GIB)
GPU = Device("CUDA0", "a card", "CUDA", DeviceKind.GPU, 4 * GIB, 8 * GIB)
LAYERS = LayerRange(2, 6)


def test_a_stage_that_fits_exactly_fits() -> None:
    check_fits(MemoryUse(3 * GIB, GIB // 2, GIB // 2, 0), LAYERS, CPU, CPU, UNLIMITED)


def test_a_stage_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(MemoryUse(3 * GIB, GIB, GIB // 2, 0), LAYERS, CPU, CPU, UNLIMITED)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (4 * GIB + GIB // 2, 4 * GIB)
    assert str(caught.value) == (
        "layers [2, 6) do not fit: they need 4.5 GiB on CPU (weights 3.0 GiB, KV cache 1.0 GiB, compute buffers"
        " 512 MiB), and 4.0 GiB is free; give this worker fewer layers, or ask for a shorter context"
    )


def test_what_lies_in_system_memory_does_not_count_on_the_device() -> None:
    check_fits(MemoryUse(3 * GIB, GIB, GIB, GIB), LAYERS, GPU, CPU, UNLIMITED)


def test_what_lies_in_system_memory_counts_there() -> None:
    with pytest.raises(DoesNotFitError, match="on system memory"):
        check_fits(MemoryUse(3 * GIB, GIB, GIB, GIB), LAYERS, GPU, replace(CPU, free_bytes=GIB - 1), UNLIMITED)


@pytest.mark.parametrize(
    ("limits", "held_bytes", "free_bytes", "total_bytes"),
    [
        (UNLIMITED, GIB, 4 * GIB, 8 * GIB),
        (MemoryLimits(max_bytes=3 * GIB), 0, 3 * GIB, 3 * GIB),
        (MemoryLimits(max_bytes=3 * GIB), GIB, 2 * GIB, 3 * GIB),
        (MemoryLimits(max_bytes=3 * GIB), 5 * GIB, 0, 3 * GIB),
        (MemoryLimits(max_bytes=20 * GIB), GIB, 4 * GIB, 8 * GIB),
        (MemoryLimits(reserve_bytes=GIB), 2 * GIB, 3 * GIB, 8 * GIB),
        (MemoryLimits(reserve_bytes=5 * GIB), 0, 0, 8 * GIB),
        (MemoryLimits(max_bytes=4 * GIB, reserve_bytes=GIB), 2 * GIB, 2 * GIB, 4 * GIB),
        (MemoryLimits(max_bytes=4 * GIB, reserve_bytes=GIB), 0, 3 * GIB, 4 * GIB),
    ],
)
def test_limits_take_from_what_is_free(
    limits: MemoryLimits, held_bytes: int, free_bytes: int, total_bytes: int
) -> None:
    limited = limits.apply(CPU, held_bytes)
    assert limited == replace(CPU, free_bytes=free_bytes, total_bytes=total_bytes)


def test_a_limit_of_its_own_leaves_the_rest_of_a_device_to_others() -> None:
    assert MemoryLimits(max_bytes=GIB, reserve_bytes=GIB).shared(CPU) == 3 * GIB
    assert MemoryLimits(reserve_bytes=5 * GIB).shared(CPU) == 0


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (MemoryLimits(max_bytes=2 * GIB), "2.0 GiB is free within its --memory of 2.0 GiB; give"),
        (MemoryLimits(reserve_bytes=3 * GIB), "1.0 GiB is free beside its --reserve of 3.0 GiB; give"),
        (MemoryLimits(2 * GIB, reserve_bytes=GIB), "2.0 GiB is free within its --memory of 2.0 GiB; give"),
        (MemoryLimits(4 * GIB, reserve_bytes=3 * GIB), "1.0 GiB is free beside its --reserve of 3.0 GiB; give"),
        (MemoryLimits(20 * GIB), "4.0 GiB is free; give"),
    ],
)
def test_what_a_limit_keeps_out_is_refused_with_its_name(limits: MemoryLimits, said: str) -> None:
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(MemoryUse(4 * GIB, GIB, 0, 0), LAYERS, CPU, CPU, limits)
    assert said in str(caught.value)


def test_a_limit_on_a_card_is_none_on_system_memory() -> None:
    check_fits(MemoryUse(GIB, 0, 3 * GIB, 3 * GIB), LAYERS, GPU, CPU, MemoryLimits(max_bytes=GIB))
