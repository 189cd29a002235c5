# SPDX-License-Identifier: MIT
"""Plans for machines of a file: what the file may say, what becomes of data sheets, and the questions people ask."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.errors import DoesNotFitError, InventoryError, PlanError
from coordinator.inventory import Inventory, parse_inventory, plan_inventory, read_inventory
from coordinator.inventory.cards import CARDS, Kind, find_card
from coordinator.inventory.estimates import (
    BANDWIDTH_EFFICIENCY,
    COMPUTE_EFFICIENCY,
    GRPC_ROUND_TRIP_S,
    estimated_speed,
    links_of_inventory,
)
from coordinator.inventory.quantities import parse_bandwidth, parse_compute, parse_time
from coordinator.options import MeshOptions
from coordinator.plan import Demand, Plan
from coordinator.prediction import COORDINATOR
from coordinator.speed import Speed
from coordinator.workers import Link
from native import ContextParams, ModelLayout, measure_layers, read_layout
from tests.coordinator.caravan_command import ROOT
from tests.coordinator.shapes import LLAMA_8B, LLAMA_70B, MIXTRAL_8X7B, write_shape

GIB = 1 << 30

_DESK = '[[device]]\nname = "desk"\ncard = "RTX 3090"\n'
_ATTIC = '[[device]]\nname = "attic"\ncard = "RTX 3060"\n'


def _read(text: str) -> Inventory:
    return parse_inventory(text, "machines.toml")


def _devices(**cards: str) -> str:
    """Each on a host of its own; what is not a card's name is a line of TOML."""
    return "\n".join(
        f'[[device]]\nname = "{name}"\n' + (card if "=" in card else f'card = "{card}"') for name, card in cards.items()
    )


@pytest.fixture(scope="module")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(tmp_path_factory.mktemp("8b") / "8b.gguf", LLAMA_8B)


@pytest.fixture(scope="module")
def llama_70b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(tmp_path_factory.mktemp("70b") / "70b.gguf", LLAMA_70B)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shape(tmp_path_factory.mktemp("8x7b") / "8x7b.gguf", MIXTRAL_8X7B)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "machines.toml"


async def _plan(model: Path, file: Path, text: str, exclude: tuple[str, ...] = ()) -> Plan:
    await asyncio.to_thread(file.write_text, text)
    return await plan_inventory(MeshOptions(model, parallel=1, exclude=exclude), file)


def _shares(plan: Plan) -> dict[str, int]:
    return {stage.worker: len(stage.layers) for stage in plan.stages}


# ---- the questions ----


async def test_a_large_card_and_two_small_ones_hold_together_what_none_holds_alone(llama_70b: Path, file: Path) -> None:
    plan = await _plan(llama_70b, file, _devices(desk="RTX 3090", attic="RTX 3060", cellar="RTX 3060"))
    shares = _shares(plan)
    assert shares["desk"] > shares["attic"] + 1
    assert sum(shares.values()) == 80
    assert plan.headline == "split over 3 devices, because none can hold it alone"
    assert all(stage.memory.total_bytes < stage.free_bytes for stage in plan.stages)
    # Everything is read once for a token: the large card's part at 936 GB/s, the small ones' at 360.
    assert plan.prediction is not None
    assert 7 < plan.prediction.tokens_per_s < 11


async def test_without_one_of_them_the_answer_says_how_much_is_missing(llama_70b: Path, file: Path) -> None:
    machines = _devices(desk="RTX 3090", attic="RTX 3060", cellar="RTX 3060")
    with pytest.raises(DoesNotFitError, match=r"together the workers can give .* too little"):
        await _plan(llama_70b, file, machines, exclude=("cellar",))


async def test_two_macs_are_split_only_if_one_does_not_suffice(llama_70b: Path, llama_8b: Path, file: Path) -> None:
    macs = _devices(studio="M2 Max 32GB", book='card = "M3 Pro"\nmemory = "36GiB"')
    assert set(_shares(await _plan(llama_70b, file, macs))) == {"studio", "book"}
    alone = await _plan(llama_8b, file, macs)
    assert _shares(alone) == {"studio": 32}
    assert alone.headline == "not split: studio can hold it all, and one stream is fastest there"


async def test_an_old_slow_card_is_left_out_where_a_fast_one_holds_it_all(llama_8b: Path, file: Path) -> None:
    plan = await _plan(llama_8b, file, _devices(fast="RTX 4090", old="GTX 1070"))
    assert _shares(plan) == {"fast": 32}
    ((name, reason),) = plan.left_out
    assert name == "old"
    assert reason.startswith("the model fits without it, and with it one stream would make ")


# ---- what is made of data sheets ----


async def test_the_plan_says_first_that_it_estimates(llama_8b: Path, file: Path) -> None:
    plan = await _plan(llama_8b, file, _DESK)
    first = plan.explain().splitlines()[0]
    assert first.startswith(f"estimates from data sheets ({file}), not measurements: 65% of peak memory bandwidth")


async def test_stages_are_planned_with_compute_buffers(llama_8b: Path, file: Path) -> None:
    plan = await _plan(llama_8b, file, _DESK)
    assert plan.stages[0].memory.compute_bytes > 100 << 20


async def test_what_the_estimate_says_of_a_known_card_is_near_what_was_measured(llama_8b: Path, file: Path) -> None:
    """llama.cpp's pull requests 15802 and 7676: 8B Q4_0 on an RTX 3090 makes 156 tokens per second, and on an RTX 4090
    reads 512 tokens in 0.05 s, both at an empty context."""
    decode = (await _plan(llama_8b, file, _devices(desk="RTX 3090"))).prediction
    prefill = (await _plan(llama_8b, file, _devices(desk="RTX 4090"))).prediction
    assert decode is not None
    assert prefill is not None
    assert prefill.ttft_s is not None
    assert 110 < decode.tokens_per_s < 160
    assert 0.045 < prefill.ttft_s < 0.12


async def test_without_compute_no_time_to_first_token_is_made_up(llama_8b: Path, file: Path) -> None:
    plan = await _plan(llama_8b, file, _devices(attic='memory = "24GiB"\nbandwidth = "936GB/s"'))
    assert plan.prediction is not None
    assert plan.prediction.ttft_s is None
    assert "first token" not in plan.explain().splitlines()[4]
    assert plan.notes[-1].endswith("the compute of attic is not known (add compute to the device)")


def _estimated(model: Path, *, parallel: int = 1, device: str = _DESK) -> tuple[ModelLayout, Speed]:
    layout, params = read_layout(model), ContextParams(n_ctx_seq=1024, n_seq_max=parallel)
    demand = Demand("model", measure_layers(model, params), 1024, parallel, params.n_batch, layout.n_embd)
    (described,) = _read(device).devices
    return layout, estimated_speed(described, layout, demand, n_ubatch=params.n_ubatch)


def test_a_dense_layer_takes_as_long_as_its_weights_take_to_be_read(llama_8b: Path) -> None:
    layout, speed = _estimated(llama_8b)
    n_bytes = sum(tensor.n_bytes for tensor in layout.tensors if tensor.layer == 5)
    assert speed.layer_s(5, 1) == pytest.approx(n_bytes / (936e9 * BANDWIDTH_EFFICIENCY))


def test_a_prompt_takes_as_long_as_its_multiplications(llama_8b: Path) -> None:
    layout, speed = _estimated(llama_8b)
    n_elements = sum(tensor.n_elements for tensor in layout.tensors if tensor.layer == 5)
    assert speed.layer_s(5, 512) == pytest.approx(2 * 512 * n_elements / (71e12 * COMPUTE_EFFICIENCY))


def test_of_experts_a_token_reads_those_that_it_uses(mixtral: Path) -> None:
    layout, speed = _estimated(mixtral)
    tensors = [tensor for tensor in layout.tensors if tensor.layer == 5]
    experts = sum(tensor.n_bytes for tensor in tensors if tensor.is_expert)
    dense = sum(tensor.n_bytes for tensor in tensors) - experts
    per_byte = 1 / (936e9 * BANDWIDTH_EFFICIENCY)
    assert speed.layer_s(5, 1) == pytest.approx((dense + experts * 2 / 8) * per_byte)
    # Two tokens share some: of 8 experts each leaves 6, so both leave 8 x (6/8)^2 = 4.5.
    assert speed.layer_s(5, 2) == pytest.approx((dense + experts * 3.5 / 8) * per_byte)


def test_experts_in_system_memory_take_as_long_as_that_takes_to_be_read(mixtral: Path) -> None:
    layout, speed = _estimated(mixtral, device=_DESK + 'ram = "32GiB"\nram_bandwidth = "60GB/s"')
    tensors = [tensor for tensor in layout.tensors if tensor.layer == 5]
    experts = sum(tensor.n_bytes for tensor in tensors if tensor.is_expert)
    dense = sum(tensor.n_bytes for tensor in tensors) - experts
    expected_s = (dense / 936e9 + experts * 2 / 8 / 60e9) / BANDWIDTH_EFFICIENCY
    assert speed.layer_s(5, 1, is_hosted=True) == pytest.approx(expected_s)


async def test_experts_that_exceed_a_card_lie_in_the_ram_beside_it(mixtral: Path, file: Path) -> None:
    """24 GiB of them and a card of 12: refused without, planned with."""
    with pytest.raises(DoesNotFitError):
        await _plan(mixtral, file, _ATTIC)
    plan = await _plan(mixtral, file, _ATTIC + 'ram = "32GiB"')
    (stage,) = plan.stages
    assert 0 < stage.n_cpu_moe < 32
    assert stage.memory.device_bytes <= stage.free_bytes
    assert "the ram beside attic is taken for 50 GB/s: ram_bandwidth says otherwise" in plan.notes


def test_a_machines_cpu_says_how_fast_the_ram_beside_its_cards_is() -> None:
    cpu = '[[device]]\nname = "cores"\nhost = "desk"\ncard = "DDR5-5600"\nmemory = "64GiB"\n'
    inventory = _read(_DESK + 'ram = "32GiB"\n' + cpu)
    desk, cores = inventory.devices
    assert desk.ram_bytes_per_s == cores.bytes_per_s > 0
    assert not any("ram" in note for note in inventory.assumed)


def test_the_output_layer_reads_its_weights_and_a_prompt_needs_it_for_one_token(llama_8b: Path) -> None:
    layout, speed = _estimated(llama_8b)
    (output,) = [tensor for tensor in layout.tensors if tensor.name == "output.weight"]
    assert speed.output.at(1) == pytest.approx(output.n_bytes / (936e9 * BANDWIDTH_EFFICIENCY), rel=0.01)
    assert speed.output.at(512) == pytest.approx(speed.output.at(1))


def test_devices_of_one_host_have_no_network_between_them_and_the_coordinator_is_on_one() -> None:
    text = 'coordinator = "attic"\n' + _DESK + _ATTIC + _devices(**{"attic-2": 'card = "RTX 3060"\nhost = "attic"'})
    links = links_of_inventory(_read(text + '\n[network]\nbandwidth = "1Gbit/s"\nround_trip = "1ms"'))
    near, far = GRPC_ROUND_TRIP_S / 2, (GRPC_ROUND_TRIP_S + 0.001) / 2
    assert links.one_way_s("attic", "attic-2", 0) == links.one_way_s(COORDINATOR, "attic-2", 0) == pytest.approx(near)
    assert links.one_way_s("attic-2", "desk", 0) == links.one_way_s(COORDINATOR, "desk", 0) == pytest.approx(far)
    assert links.one_way_s("desk", "attic", 125_000_000) == pytest.approx(1 + far)


def test_a_link_counts_between_its_two_hosts_either_way_and_takes_the_rest_from_the_network() -> None:
    text = _devices(a="M1 16GB", b="M1 16GB", c="M1 16GB")
    text += '\n[network]\nround_trip = "1ms"\n[[link]]\nbetween = ["b", "a"]\nbandwidth = "10Gbit/s"'
    inventory = _read(text)
    assert inventory.between("a", "b") == inventory.between("b", "a") == Link(0.001, 1.25e9)
    assert inventory.between("a", "c") == Link(0.001, 125e6)


async def test_the_documents_show_a_file_that_can_be_read_and_what_is_printed_for_it(
    llama_70b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "planner.md").read_text(encoding="utf-8")
    shown = text.partition("$ caravan plan 70b.gguf --inventory machines.toml --parallel 1\n")[2].partition("\n```")[0]
    monkeypatch.chdir(tmp_path)
    plan = await _plan(llama_70b, Path("machines.toml"), text.partition("```toml\n")[2].partition("```")[0])
    assert plan.explain() == shown


# ---- the file ----


def test_a_card_tells_everything_and_any_of_it_can_be_told_otherwise() -> None:
    text = _devices(
        desk="NVIDIA GeForce RTX 3090",
        other='card = "rtx3090"\nmemory = "20GiB"\nbandwidth = "1TB/s"\ncompute = "100TFLOPS"\nreserve = "1GiB"',
    )
    desk, other = _read(text).devices
    assert (desk.label, desk.kind, desk.host) == ("RTX 3090", Kind.GPU, "desk")
    assert (desk.memory_bytes, desk.reserve_bytes, desk.bytes_per_s, desk.flops) == (24 * GIB, GIB // 2, 936e9, 71e12)
    assert (other.memory_bytes, other.reserve_bytes, other.bytes_per_s, other.flops) == (20 * GIB, GIB, 1e12, 1e14)


@pytest.mark.parametrize(
    ("device", "reserve_gib"),
    [
        ('card = "M4 Pro"\nmemory = "24GiB"', 8),
        ('card = "M4 Pro"\nmemory = "48GiB"', 12),
        ('card = "DDR5-5600"\nmemory = "64GiB"', 2),
        ('card = "RTX 3090"\nreserve = 0', 0),
    ],
)
def test_a_system_keeps_what_it_needs_of_its_memory(device: str, reserve_gib: int) -> None:
    (described,) = _read(_devices(it=device)).devices
    assert described.reserve_bytes == reserve_gib * GIB


def test_what_the_file_leaves_open_about_the_network_is_said() -> None:
    assert _read(_DESK).assumed == ()
    assert _read(_DESK + _ATTIC + '[network]\nbandwidth = "10Gbit/s"').assumed == ()
    (assumed,) = _read(_DESK + _ATTIC).assumed
    assert assumed == "the network is taken for 1 Gbit/s with a round trip of 0.3 ms: [network] says otherwise"


_NAMELESS = '[[device]]\ncard = "RTX 3090"'
_LINK = _DESK + _ATTIC + "[[link]]\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "machines.toml has no device: add [[device]] with a name and a card"),
        ("desk: RTX 3090", "machines.toml is not TOML: "),
        (_NAMELESS, 'machines.toml: device 1: name is missing: add one, such as name = "desk"'),
        ('[[device]]\nname = ""', "machines.toml: device 1: name = '' is no name: write some letters in quotes"),
        ('[[device]]\nname = "a\\nb"', "machines.toml: device 'a\\nb': name = 'a\\nb' is no name"),
        (_DESK + _DESK, "machines.toml: device 'desk' is there 2 times: give each a name of its own"),
        ('[device]\nname = "desk"', "machines.toml: write [[device]] with two brackets, as there may be several"),
        ("device = [1]", "machines.toml: device 1: this is no table: write its keys below its heading"),
        (_DESK + "bandwith = 1", "machines.toml: device 'desk': there is no key 'bandwith': is it 'bandwidth'?"),
        (_DESK + "x = 1", "machines.toml: device 'desk': there is no key 'x': there are name, card, kind, host, "),
        ("[wires]\n" + _DESK, "machines.toml: there is no key 'wires': there are device, network, link, coordinator"),
        (_devices(desk="RTX 3091"), "device 'desk': card: no card 'RTX 3091' is known; the nearest are RTX 3090"),
        (_devices(desk="A100"), "no card 'A100' is known; the nearest are A100 40GB, A100 80GB; or give memory"),
        (_devices(desk='bandwidth = "1TB/s"'), 'memory is missing: add it, such as memory = "24GiB", or name a card'),
        (_devices(desk='memory = "24GiB"'), 'bandwidth is missing: add it, such as bandwidth = "936GB/s", or name a'),
        (_devices(desk="M2 Max"), "M2 Max comes with memory of several sizes: add the one you mean, such as memory = "),
        (_DESK + 'memory = "lots"', "device 'desk': memory: 'lots' is no size, like 20GiB, 512MiB"),
        (_DESK + 'memory = "0"', "device 'desk': memory: '0' is not what a device has; write a size like 24GiB"),
        (_DESK + 'memory = "9000TiB"', "'9000TiB' is not what a device has"),
        (_DESK + "memory = 1.5", "device 'desk': memory = 1.5: write a number with its unit, in quotes"),
        (_DESK + "memory = true", "device 'desk': memory = True: write a number with its unit, in quotes"),
        (
            _DESK + "bandwidth = 936",
            "device 'desk': bandwidth: '936' is no bandwidth, like 936GB/s (bytes) or 2.5Gbit/s",
        ),
        (_DESK + 'compute = "fast"', "device 'desk': compute: 'fast' is no compute, like 71TFLOPS or 800GFLOPS"),
        (_DESK + 'kind = "tpu"', "device 'desk': kind: 'tpu' is none of gpu, integrated_gpu, cpu"),
        (_DESK + 'reserve = "24GiB"', "device 'desk': nothing is left of its memory beside the reserve: lower reserve"),
        (
            _devices(mac="M2 Max 64GB") + '\nram = "8GiB"',
            "device 'mac': ram is memory beside that of a card, and here that is the machine's",
        ),
        (_DESK + '[network]\nround_trip = "soon"', "network: round_trip: 'soon' is no time, like 0.5ms, 200us or 1s"),
        (_DESK + "[[network]]", "machines.toml: network: this is no table: write its keys below its heading"),
        (_DESK + '[network]\nspeed = "1"', "network: there is no key 'speed': there are bandwidth, round_trip"),
        (
            'coordinator = "cellar"\n' + _DESK,
            "the coordinator is on 'cellar', which is no device's host: there are desk",
        ),
        (_LINK, 'machines.toml: link 1: between is missing or no list of names: write between = ["desk", "attic"]'),
        (_LINK + "between = [1, 2]", "machines.toml: link 1: between is missing or no list of names"),
        (_LINK + 'between = ["desk"]', "machines.toml: link 1: a link is between two hosts: name two in between"),
        (_LINK + 'between = ["desk", "moon"]', "link 1: it leads to 'moon', which is no host: there are desk, attic"),
        (
            _DESK + 'host = "tower"\n' + _ATTIC + '[[link]]\nbetween = ["desk", "attic"]',
            "link 1: it leads to 'desk', which is no host: that device is on host 'tower'",
        ),
        (
            _LINK + 'between = ["desk", "attic"]\n[[link]]\nbetween = ["attic", "desk"]',
            "link 2: there is a link between attic and desk already: take one of them out",
        ),
    ],
)
def test_what_cannot_be_is_told_with_file_entry_and_remedy(text: str, complaint: str) -> None:
    with pytest.raises(InventoryError) as refused:
        _read(text)
    assert complaint in refused.value.message
    assert refused.value.message.startswith("machines.toml")
    assert "\n" not in refused.value.message


def test_a_file_that_cannot_be_read_is_told_by_its_path(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (2 << 20))
    for path in (tmp_path / "nowhere.toml", tmp_path, binary, large):
        with pytest.raises(InventoryError) as refused:
            read_inventory(path)
        assert refused.value.message.startswith(f"{path} ")


async def test_who_is_excluded_by_a_wrong_name_is_told_the_right_ones(llama_8b: Path, file: Path) -> None:
    with pytest.raises(PlanError, match="no device is named moon; the inventory has: desk, attic"):
        await _plan(llama_8b, file, _DESK + _ATTIC, exclude=("moon",))
    with pytest.raises(PlanError, match="none may take part: exclude fewer"):
        await _plan(llama_8b, file, _DESK + _ATTIC, exclude=("desk", "attic"))


# ---- words ----


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("RTX 3090", "RTX 3090"),
        ("nvidia geforce rtx 3090 ti", "RTX 3090 Ti"),
        ("RTX3060", "RTX 3060"),
        ("RTX 3060 12GB", "RTX 3060"),
        ("rtx 4060 ti 16 GB", "RTX 4060 Ti 16GB"),
        ("Tesla P40", "Tesla P40"),
        ("P40", "Tesla P40"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("Radeon VII", "Radeon VII"),
        ("Intel(R) Arc(TM) A770 Graphics", "Arc A770"),
        ("Apple M4 Max", "M4 Max"),
        ("Ryzen AI Max+ 395", "Strix Halo"),
        ("ddr5 5600", "DDR5-5600"),
    ],
)
def test_a_card_is_found_however_people_write_it(name: str, found: str) -> None:
    assert find_card(name).name == found


def test_memory_behind_a_name_says_which_one_is_meant() -> None:
    assert find_card("M2 Max 64GB").memory_bytes == 64 * GIB
    with pytest.raises(ValueError, match="no card 'RTX 3090 48GB' is known; the nearest are RTX 3090"):
        find_card("RTX 3090 48GB")


def test_every_card_is_found_by_its_name_and_has_figures_of_the_right_size() -> None:
    for card in CARDS:
        assert find_card(card.name) == card
        assert card.memory_bytes is None or 6 * GIB <= card.memory_bytes < 200 * GIB
        assert 15e9 < card.bytes_per_s < 5e12
        # Compute is some operations for each byte that can be read; a slip in a unit would be a thousand.
        assert card.flops is None or 8 < card.flops / card.bytes_per_s < 500, card.name


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("936GB/s", 936e9), ("1.5 TB/s", 1.5e12), ("100MiB/s", 100 << 20), ("2.5Gbit/s", 312.5e6), ("8bit/s", 1.0)],
)
def test_bandwidths_are_read_in_bytes_and_bits(text: str, bytes_per_s: float) -> None:
    assert parse_bandwidth(text) == pytest.approx(bytes_per_s)


@pytest.mark.parametrize(
    "text", ["", "936", "936GB", "936gb/s", "0GB/s", "1Gibit/s", "-1GB/s", "1,5GB/s", "9" * 400 + "B/s"]
)
def test_what_is_no_bandwidth_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no bandwidth, like 936GB/s"):
        parse_bandwidth(text)


def test_compute_and_times_are_read_with_their_units() -> None:
    assert [parse_compute(text) for text in ("71TFLOPS", "800 GFLOPS", "1.5pflops")] == [71e12, 8e11, 1.5e15]
    assert [parse_time(text) for text in ("0.5ms", "200us", "200 µs", "1s")] == pytest.approx([5e-4, 2e-4, 2e-4, 1])
    with pytest.raises(ValueError, match="'71' is no compute"):
        parse_compute("71")
    with pytest.raises(ValueError, match="'5' is no time"):
        parse_time("5")
