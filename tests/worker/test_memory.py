# SPDX-License-Identifier: MIT
"""How much memory a worker may use, whether a stage fits, and the sentence when it does not."""

from dataclasses import replace

import pytest

from native import ContextParams, Device, DeviceKind, LayerRange, MemoryUse
from worker.errors import DoesNotFitError
from worker.memory import UNLIMITED, MemoryLimits, check_fits
from worker.session import StageSpec

GIB = 1 << 30
CPU = Device("CPU", "a processor", "CPU", DeviceKind.CPU, 4 * GIB, 8 * GIB)
GPU = Device("CUDA0", "a card", "CUDA", DeviceKind.GPU, 4 * GIB, 8 * GIB)
IGPU = replace(GPU, name="Vulkan0", kind=DeviceKind.INTEGRATED_GPU)
METAL = replace(GPU, name="MTL0", backend="MTL")
STAGE = StageSpec("model.gguf", "identity", LayerRange(2, 6), ContextParams())
WITH_EXPERTS = replace(STAGE, n_cpu_moe=4)
NOTHING = MemoryUse(0, 0, 0, 0)


def test_a_stage_that_fits_exactly_fits() -> None:
    check_fits(MemoryUse(3 * GIB, GIB // 2, GIB // 2, 0), STAGE, CPU, CPU, UNLIMITED)


def test_a_stage_that_does_not_fit_is_refused_with_the_numbers() -> None:
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(MemoryUse(3 * GIB, GIB, GIB // 2, 0), STAGE, CPU, CPU, UNLIMITED)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (4 * GIB + GIB // 2, 4 * GIB)
    assert str(caught.value) == (
        "layers [2, 6) do not fit: they need 4.5 GiB on CPU (weights 3.0 GiB, KV cache 1.0 GiB, compute buffers"
        " 512 MiB), and 4.0 GiB is free; give this worker fewer layers, or ask for a shorter context"
    )


def test_what_lies_in_system_memory_does_not_count_on_the_device() -> None:
    check_fits(MemoryUse(3 * GIB, GIB, GIB, GIB), STAGE, GPU, CPU, UNLIMITED)


def test_what_lies_in_system_memory_counts_there() -> None:
    with pytest.raises(DoesNotFitError, match=r"need 1\.0 GiB on system memory \(in both places: weights 3\.0 GiB"):
        check_fits(MemoryUse(3 * GIB, GIB, GIB, GIB), STAGE, GPU, replace(CPU, free_bytes=GIB - 1), UNLIMITED)


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
        check_fits(MemoryUse(4 * GIB, GIB, 0, 0), STAGE, CPU, CPU, limits)
    assert said in str(caught.value)


def test_a_limit_on_a_card_is_none_on_system_memory() -> None:
    check_fits(MemoryUse(GIB, 0, 3 * GIB, 3 * GIB), STAGE, GPU, CPU, MemoryLimits(max_bytes=GIB))


@pytest.mark.parametrize(
    ("limits", "device", "free_bytes", "host_free_bytes"),
    [
        # A card: what is free of the system's 4 of 8 GiB, less 2 GiB.
        (UNLIMITED, GPU, 4, 2),
        (MemoryLimits(max_bytes=GIB, reserve_bytes=GIB), GPU, 1, 2),
        (MemoryLimits(max_host_bytes=3 * GIB), GPU, 4, 3),
        (MemoryLimits(max_host_bytes=6 * GIB), GPU, 4, 4),
        # A card whose memory is the system's: nothing unless asked for.
        (UNLIMITED, IGPU, 4, 0),
        (UNLIMITED, METAL, 4, 0),
        (MemoryLimits(max_host_bytes=3 * GIB), IGPU, 4, 3),
        # A CPU: --ram alone bounds the whole, beside --memory it is for experts; both share what is free.
        (UNLIMITED, CPU, 4, 0),
        (MemoryLimits(max_bytes=3 * GIB), CPU, 3, 0),
        (MemoryLimits(max_host_bytes=3 * GIB), CPU, 3, 0),
        (MemoryLimits(max_bytes=GIB, max_host_bytes=2 * GIB), CPU, 1, 2),
        (MemoryLimits(max_bytes=3 * GIB, max_host_bytes=2 * GIB), CPU, 3, 1),
        (MemoryLimits(max_bytes=3 * GIB, reserve_bytes=2 * GIB, max_host_bytes=2 * GIB), CPU, 2, 0),
    ],
)
def test_system_memory_beside_a_device_is_what_is_free_within_the_limits(
    limits: MemoryLimits, device: Device, free_bytes: int, host_free_bytes: int
) -> None:
    assert limits.apply(device).free_bytes == free_bytes * GIB
    assert limits.host_free(device, CPU, NOTHING) == host_free_bytes * GIB


def test_of_a_large_memory_a_tenth_is_left_to_the_system() -> None:
    system = replace(CPU, free_bytes=90 * GIB, total_bytes=100 * GIB)
    assert UNLIMITED.host_free(GPU, system, NOTHING) == 80 * GIB


def test_what_a_stage_holds_beside_its_device_counts_against_ram() -> None:
    held = MemoryUse(2 * GIB, 0, GIB // 2, GIB)
    limits = MemoryLimits(max_bytes=3 * GIB, max_host_bytes=2 * GIB)
    assert limits.apply(CPU, held.device_bytes).free_bytes == 3 * GIB // 2
    assert limits.host_free(CPU, CPU, held) == GIB
    assert limits.host_free(GPU, CPU, held) == GIB


@pytest.mark.parametrize(
    ("limits", "device", "use"),
    [
        (UNLIMITED, GPU, MemoryUse(6 * GIB, 0, 0, 2 * GIB)),
        (MemoryLimits(max_host_bytes=4 * GIB), GPU, MemoryUse(8 * GIB, 0, 0, 4 * GIB)),
        (MemoryLimits(GIB, 0, 3 * GIB), CPU, MemoryUse(4 * GIB, 0, 0, 3 * GIB)),
        # What the device side does not take is there for experts.
        (MemoryLimits(4 * GIB, 0, 3 * GIB), CPU, MemoryUse(4 * GIB, 0, 0, 3 * GIB)),
    ],
)
def test_experts_that_fit_beside_a_device_exactly_fit(limits: MemoryLimits, device: Device, use: MemoryUse) -> None:
    check_fits(use, WITH_EXPERTS, device, CPU, limits)


@pytest.mark.parametrize(
    ("limits", "device", "said"),
    [
        (
            UNLIMITED,
            GPU,
            "2.0 GiB is free for experts beside the 2.0 GiB that are left to the system; give this worker fewer"
            " layers, keep fewer experts there, or say with --ram that they may have more",
        ),
        (
            MemoryLimits(max_host_bytes=GIB),
            GPU,
            "1.0 GiB is free within its --ram of 1.0 GiB; give this worker fewer layers, keep fewer experts there,"
            " or start this worker with a larger --ram",
        ),
        (UNLIMITED, METAL, "0 B is free for experts, as the memory of MTL0 is the system's; give"),
        (MemoryLimits(4 * GIB), CPU, "0 B is free without both --memory and --ram; give"),
        (MemoryLimits(max_host_bytes=4 * GIB), CPU, "0 B is free without both --memory and --ram; give"),
        (MemoryLimits(4 * GIB, 0, 4 * GIB), CPU, "2.0 GiB is free; give"),
        (MemoryLimits(2 * GIB, 0, GIB), CPU, "1.0 GiB is free within its --ram of 1.0 GiB; give"),
    ],
)
def test_experts_that_do_not_fit_beside_a_device_are_refused_with_what_bounds_them(
    limits: MemoryLimits, device: Device, said: str
) -> None:
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(MemoryUse(4 * GIB, 0, GIB // 2, 5 * GIB // 2), WITH_EXPERTS, device, CPU, limits)
    assert "they need 2.5 GiB on system memory (in both places: weights 4.0 GiB" in str(caught.value)
    assert said in str(caught.value)


def test_a_cpu_within_its_ram_alone_says_so() -> None:
    with pytest.raises(DoesNotFitError, match=r"2\.0 GiB is free within its --ram of 2\.0 GiB"):
        check_fits(MemoryUse(3 * GIB, 0, 0, 0), STAGE, CPU, CPU, MemoryLimits(max_host_bytes=2 * GIB))


def test_what_every_stage_keeps_in_system_memory_may_have_what_experts_leave() -> None:
    nearly_full = replace(CPU, free_bytes=GIB)
    use = MemoryUse(2 * GIB, 0, 0, GIB)
    check_fits(use, STAGE, GPU, nearly_full, UNLIMITED)
    with pytest.raises(DoesNotFitError, match="0 B is free for experts"):
        check_fits(use, WITH_EXPERTS, GPU, nearly_full, UNLIMITED)
