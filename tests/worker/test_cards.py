# SPDX-License-Identifier: MIT
"""Which devices a worker may compute on together, how they share a stage, and whether it fits each of them."""

from dataclasses import replace

import pytest

from native import CardUse, Device, DeviceKind, LayerRange, MemoryUse, Split
from worker.cards import (
    Place,
    as_one,
    card_names,
    check_each_fits,
    check_together,
    chosen_split,
    find_place,
    free_beside,
    room_for,
)
from worker.errors import CardsError, DoesNotFitError, UnknownDeviceNameError
from worker.memory import MemoryLimits
from worker.nvml import Link
from worker.peers import are_peers

GIB = 1 << 30
CPU = Device("CPU", "a processor", "CPU", DeviceKind.CPU, 4 * GIB, 8 * GIB)
LARGE = Device("CUDA0", "a large card", "CUDA", DeviceKind.GPU, 22 * GIB, 24 * GIB)
SMALL = Device("CUDA1", "a small card", "CUDA", DeviceKind.GPU, 5 * GIB, 6 * GIB)
APART = ("0000:01:00.0", "0000:02:00.0")
PLACE = Place(("CUDA0", "CUDA1"), Split.LAYER, reserve_bytes=GIB)


def test_names_are_joined_by_commas_with_blanks_as_one_likes() -> None:
    assert card_names("CUDA0,CUDA1") == card_names(" CUDA0 , CUDA1 ") == ("CUDA0", "CUDA1")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("CUDA0,,CUDA1", "--device 'CUDA0,,CUDA1' has no name between two commas or at an end"),
        ("CUDA0,", "no name between two commas or at an end; write it like CUDA0,CUDA1"),
        ("CPU,cpu", "--device 'CPU,cpu' names cpu twice; name each card once"),
    ],
)
def test_a_list_that_names_no_cards_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(CardsError, match=complaint):
        find_place(text, "auto")


def test_an_unknown_card_is_named_with_those_there_are() -> None:
    with pytest.raises(UnknownDeviceNameError, match=r"there is no device 'CUDA7' on this machine; it has .*CPU"):
        find_place("CPU,CUDA7", "auto")


def test_the_cpu_gets_a_worker_of_its_own() -> None:
    with pytest.raises(CardsError, match=r"CPU cannot share a stage .* worker of its own with --device CPU"):
        check_together([LARGE, CPU], APART)
    check_together([LARGE, replace(SMALL, kind=DeviceKind.INTEGRATED_GPU)], APART)


def test_only_cards_of_one_backend_share_tensors() -> None:
    both = [LARGE, replace(SMALL, name="Vulkan0", backend="Vulkan")]
    check_together(both, APART, Split.LAYER)
    with pytest.raises(CardsError, match="cards of CUDA and Vulkan cannot share tensors with each other"):
        check_together(both, APART, Split.TENSOR)


def test_a_card_of_two_backends_is_one_card() -> None:
    with pytest.raises(CardsError, match="CUDA0 and Vulkan0 are one card, of two backends; name it once"):
        check_together([LARGE, replace(LARGE, name="Vulkan0", backend="Vulkan")], [APART[0], APART[0]])


def test_there_are_as_many_cards_as_llama_cpp_can_schedule_over() -> None:
    check_together([LARGE] * 13, [None] * 13)
    with pytest.raises(CardsError, match="14 cards are more than the 13 of one worker"):
        check_together([LARGE] * 14, [None] * 14)


def test_rows_are_refused() -> None:
    with pytest.raises(CardsError, match=r"--split row cannot be had.*use --split tensor"):
        find_place("CPU", "row")


def test_a_device_alone_is_what_it_is() -> None:
    assert find_place("cpu", "tensor") == Place(("CPU",))
    assert as_one([SMALL], reserve_bytes=GIB) == SMALL
    assert Place(("CPU",)).limits(MemoryLimits(reserve_bytes=GIB)) == MemoryLimits(reserve_bytes=GIB)


def test_several_cards_are_one_device_with_the_sum_of_their_memory_beside_each_ones_reserve() -> None:
    one = as_one([LARGE, SMALL, replace(SMALL, name="Vulkan0", backend="Vulkan", free_bytes=GIB // 2)], GIB)
    assert (one.name, one.backend, one.kind) == ("CUDA0,CUDA1,Vulkan0", "CUDA, Vulkan", DeviceKind.GPU)
    assert one.description == "a large card, 2 x a small card"
    assert (one.free_bytes, one.total_bytes) == (25 * GIB, 36 * GIB)
    limits = PLACE.limits(MemoryLimits(max_bytes=20 * GIB, reserve_bytes=GIB))
    assert limits.apply(one, held_bytes=2 * GIB).free_bytes == 18 * GIB


def test_tensors_are_shared_where_all_cards_of_one_backend_are_peers() -> None:
    assert chosen_split([LARGE, SMALL], are_peers=True) is Split.TENSOR
    assert chosen_split([LARGE, SMALL], are_peers=False) is Split.LAYER
    assert chosen_split([LARGE, replace(SMALL, backend="Vulkan")], are_peers=True) is Split.LAYER


@pytest.mark.parametrize(
    ("bus_ids", "links", "expected"),
    [
        (("0000:01:00.0", "0000:02:00.0"), {Link.NVLINK}, True),
        (("0000:01:00.0", "0000:02:00.0"), {Link.READ, Link.WRITE}, True),
        (("0000:01:00.0", "0000:02:00.0"), {Link.READ}, False),
        (("0000:01:00.0", "0000:02:00.0"), set(), False),
        (("0000:01:00.0", None), set(Link), False),
        (("0000:01:00.0", "0000:01:00.0-v1"), set(Link), False),
    ],
)
def test_cards_are_peers_that_reach_each_other_by_nvlink_or_across_the_bus(
    bus_ids: tuple[str | None, ...], links: set[Link], expected: bool
) -> None:
    assert are_peers(bus_ids, lambda _one, _other, link: link in links) is expected


def test_each_pair_of_cards_has_to_be_linked() -> None:
    ids = [f"0000:0{i}:00.0" for i in range(3)]
    assert not are_peers(ids, lambda one, other, _link: {one, other} != {ids[0], ids[2]})


def test_the_card_that_is_too_full_is_named() -> None:
    use = MemoryUse(10 * GIB, 2 * GIB, GIB, 0, (CardUse(6 * GIB, GIB, GIB // 2), CardUse(4 * GIB, GIB, GIB // 2)))
    check_each_fits(use, LayerRange(2, 6), PLACE, (22 * GIB, 6 * GIB))
    with pytest.raises(DoesNotFitError) as caught:
        check_each_fits(use, LayerRange(2, 6), PLACE, (22 * GIB, 5 * GIB))
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (5 * GIB + GIB // 2, 5 * GIB)
    assert str(caught.value) == (
        "layers [2, 6) do not fit: CUDA1 would hold 5.5 GiB of them (weights 4.0 GiB, KV cache 1.0 GiB, compute buffers"
        " 512 MiB), and 5.0 GiB is free there beside its --reserve of 1.0 GiB; give this worker fewer layers, or ask"
        " for a shorter context"
    )


def test_a_misfit_on_one_card_shows_in_the_room_for_the_stage() -> None:
    use = MemoryUse(8 * GIB, 0, 0, 0, (CardUse(5 * GIB), CardUse(3 * GIB)))
    assert room_for(use, [90 * GIB, 3 * GIB], 93 * GIB) == 93 * GIB
    assert room_for(use, [90 * GIB, 2 * GIB], 92 * GIB) == use.device_bytes * 2 // 3
    assert room_for(use, [90 * GIB, 2 * GIB], 4 * GIB) == 4 * GIB
    assert room_for(replace(use, cards=()), [16 * GIB], 7 * GIB) == 7 * GIB


def test_what_a_loaded_stage_holds_is_free_for_the_next() -> None:
    held = MemoryUse(3 * GIB, 0, 0, 0, (CardUse(2 * GIB), CardUse(0, GIB)))
    assert free_beside(held, [GIB, GIB]) == [3 * GIB, 2 * GIB]
    assert free_beside(MemoryUse(0, 0, 0, 0), [GIB, GIB]) == [GIB, GIB]
