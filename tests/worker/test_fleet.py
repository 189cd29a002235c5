# SPDX-License-Identifier: MIT
"""Which workers a machine runs, what each is told, and when one that died starts again."""

import pytest

from native import Device, DeviceKind
from worker.errors import CardsError, PortError
from worker.fleet import Wishes, cannot_start, delay_s, how_it_ended, orders
from worker.listening import Endpoint
from worker.listing import chosen

_ANY_PORT = Endpoint("127.0.0.1", 0)
_WITH_VALUE = {"--device", "--name", "--listen", "--ram", "--memory", "--models"}


def _device(name: str, kind: DeviceKind) -> Device:
    return Device(name, f"a device called {name}", name.rstrip("0123456789"), kind, 1 << 30, 2 << 30)


CPU = (_device("CPU", DeviceKind.CPU), None)
CARDS = [(_device(f"CUDA{i}", DeviceKind.GPU), f"0000:0{i}:00.0") for i in range(2)]
INTEGRATED = (_device("Vulkan0", DeviceKind.INTEGRATED_GPU), "0000:00:02.0")


def test_every_gpu_gets_a_worker_and_the_cpu_where_there_is_none() -> None:
    assert chosen([*CARDS, INTEGRATED, CPU], integrated=False) == ["CUDA0", "CUDA1"]
    assert chosen([*CARDS, INTEGRATED, CPU], integrated=True) == ["CUDA0", "CUDA1", "Vulkan0"]
    assert chosen([CPU], integrated=True) == ["CPU"]


def test_an_integrated_gpu_alone_is_left_alone_unless_it_is_asked_for() -> None:
    assert chosen([INTEGRATED, CPU], integrated=False) == ["CPU"]
    assert chosen([INTEGRATED, CPU], integrated=True) == ["Vulkan0"]


def test_a_card_that_two_backends_can_use_gets_one_worker() -> None:
    same = (_device("Vulkan1", DeviceKind.GPU), "0000:01:00.0")
    unknown = [(_device(f"Vulkan{i}", DeviceKind.GPU), None) for i in (2, 3)]
    assert chosen([*CARDS, same, *unknown, CPU], integrated=False) == ["CUDA0", "CUDA1", "Vulkan2", "Vulkan3"]


def test_each_worker_gets_the_command_line_but_for_what_is_dealt_out() -> None:
    given = ["--device", "CUDA0", "--memory", "20GiB", "--device=CUDA1", "--name", "desk", "--models", "--name"]
    given += ["--integrated", "--insecure", "--listen=0.0.0.0:50051", "--ram", "9"]
    wishes = Wishes(("CUDA0", "CUDA1,CUDA2"), Endpoint("0.0.0.0", 50051), name="desk", ram_bytes=9)
    kept = ("--memory", "20GiB", "--models", "--name", "--insecure")
    first, second = orders(wishes, given, _WITH_VALUE)
    assert first.arguments == (
        *kept, "--device", "CUDA0", "--listen", "0.0.0.0:50051", "--name", "desk-CUDA0", "--ram", "4",
    )  # fmt: skip
    assert second.arguments == (
        *kept, "--device", "CUDA1,CUDA2", "--listen", "0.0.0.0:50053", "--name", "desk-CUDA1-CUDA2", "--ram", "4",
    )  # fmt: skip
    assert (first.label, second.label) == ("desk-CUDA0", "desk-CUDA1-CUDA2")


def test_a_worker_alone_is_called_as_it_is_told() -> None:
    (order,) = orders(Wishes(("CPU",), _ANY_PORT, name="desk"), ["--name", "desk"], _WITH_VALUE)
    assert order.arguments == ("--device", "CPU", "--listen", "127.0.0.1:0", "--name", "desk")
    (order,) = orders(Wishes(("CPU",), _ANY_PORT), ["--ram", "8GiB"], _WITH_VALUE)
    assert order.arguments == ("--ram", "8GiB", "--device", "CPU", "--listen", "127.0.0.1:0")
    assert order.label == "the worker on CPU"


def test_two_workers_on_one_device_have_two_names() -> None:
    made = orders(Wishes(("CPU", "CPU"), _ANY_PORT, name="desk"), [], _WITH_VALUE)
    assert [order.label for order in made] == ["desk-CPU", "desk-CPU-2"]


def test_ports_that_run_out_are_one_sentence() -> None:
    assert len(orders(Wishes(("A", "B"), Endpoint("127.0.0.1", 65532)), [], _WITH_VALUE)) == 2
    with pytest.raises(PortError, match="2 workers would listen on 4 ports from 65533 on"):
        orders(Wishes(("A", "B"), Endpoint("127.0.0.1", 65533)), [], _WITH_VALUE)


def test_a_split_wants_cards_that_are_one_workers() -> None:
    joined = Wishes(("CUDA0,CUDA1", "CPU"), _ANY_PORT, split="tensor")
    assert [order.arguments[:2] for order in orders(joined, ["--split", "tensor"], {"--split"})] == [
        ("--split", "tensor")
    ] * 2
    with pytest.raises(CardsError, match=r"each worker here has one device \(CUDA0, CUDA1\); join cards by commas"):
        orders(Wishes(("CUDA0", "CUDA1"), _ANY_PORT, split="tensor"), [], _WITH_VALUE)


def test_cards_that_are_one_workers_are_nobody_elses() -> None:
    with pytest.raises(CardsError, match="--device CUDA0,CUDA1 has CUDA1, which is another worker's too"):
        orders(Wishes(("CUDA0,CUDA1", "cuda1"), _ANY_PORT), [], _WITH_VALUE)


def test_who_dies_again_and_again_waits_longer_until_it_has_lived() -> None:
    waits = [0.0]
    for _ in range(8):
        waits.append(delay_s(waits[-1], lived_s=2.0))
    assert waits[1:] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert delay_s(60.0, lived_s=299.0) == 60
    assert delay_s(60.0, lived_s=300.0) == 1


def test_an_end_is_told_in_words() -> None:
    assert how_it_ended(-11) == "was ended by SIGSEGV"
    assert how_it_ended(-40) == "was ended by signal 40"
    assert how_it_ended(134) == "ended with exit code 134"


def test_only_an_exit_code_that_says_so_means_that_it_cannot_start() -> None:
    assert [code for code in (-11, -9, 0, 1, 2, 3, 4, 134) if cannot_start(code)] == [1, 2, 3]
