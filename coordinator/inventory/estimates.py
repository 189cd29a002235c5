# SPDX-License-Identifier: MIT
"""Data sheets as the planner wants them: how long a device takes for a model's layers, and what each link costs. Pure.

A layer takes as long as its weights take to be read, or its multiplications to be done, whichever is longer; of a
layer's experts a token reads and computes those that it uses. Experts in system memory take as long as that memory
takes to be read. Attention is left out, as in measured speeds.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from coordinator.candidates import MARGIN_BYTES, Candidate
from coordinator.inventory.cards import Kind
from coordinator.inventory.machines import Inventory, InventoryDevice
from coordinator.plan import Demand
from coordinator.prediction import COORDINATOR, PROMPT_TOKENS, Links
from coordinator.speed import Curve, Speed, layer_kinds
from coordinator.workers import Link
from native import ModelLayout, TensorLayout

BANDWIDTH_EFFICIENCY = 0.65
"""Of a data sheet's bandwidth, what llama.cpp reaches reading weights for one token. Source: tokens per second times
bytes read in llama.cpp's pull requests 15802 (RTX 3090, 8B Q4_0: 156/s, 73 %) and 4766 (P40, 7B Q4_0: 56/s, 62 %), its
issue 34 (Core i9-13900K with DDR5-6400, 7B: 18/s, 68 %), pull request 812 of AlexsJones/llmfit (M4 Pro, a dense model
of 15.4 GB: 13.2/s, 75 %)."""

COMPUTE_EFFICIENCY = 0.5
"""Of a data sheet's f16 compute, what llama.cpp reaches on a prompt of 512 tokens: a cautious middle. Source: its pull
requests 7676 (RTX 4090, 8B Q4_0: 10400/s, 94 %) and 7860 (RTX 3090, 8B Q6_K: 3500/s, 74 %), its issue 34 (Core
i9-13900K, 7B: 55/s, about a third)."""

GRPC_ROUND_TRIP_S = 0.0005
"""What gRPC adds to a network's round trip. Source: hops_s of `caravan plan --json` over a worker on the same machine,
0.55 to 0.8 ms while two cores were busy with other things."""

LOOPBACK = Link(round_trip_s=0.0, bytes_per_s=2e9)
"""Between two workers of one machine: no network, only copies."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What some tensors cost: bytes to read and numbers to multiply with, of all tokens' and of experts."""

    dense_bytes: int
    expert_bytes: int
    dense_elements: int
    expert_elements: int


def candidates_of_inventory(
    inventory: Inventory, layout: ModelLayout, demand: Demand, *, n_ubatch: int, compute_bytes: int
) -> list[Candidate]:
    """The devices as candidates, in the same order.

    Args:
        n_ubatch: Tokens that llama.cpp computes at once; weights are read anew for each so many.
        compute_bytes: Expected compute buffers of a stage.
    """
    return [
        Candidate(
            name=device.name,
            address="",
            device=device.label,
            free_bytes=device.memory_bytes - device.reserve_bytes,
            reserve_bytes=compute_bytes + MARGIN_BYTES,
            holds_input=device.kind is Kind.CPU,
            speed=estimated_speed(device, layout, demand, n_ubatch=n_ubatch),
            host=device.host,
            host_free_bytes=device.ram_bytes,
            host_reserve_bytes=MARGIN_BYTES,
        )
        for device in inventory.devices
    ]


def links_of_inventory(inventory: Inventory) -> Links:
    """The link between every two devices, and from the coordinator's host to each."""
    ends = [(COORDINATOR, inventory.coordinator), *((device.name, device.host) for device in inventory.devices)]
    return Links(
        {
            (name, other): _with_grpc(LOOPBACK if host == other_host else inventory.between(host, other_host))
            for (name, host), (other, other_host) in itertools.combinations(ends, 2)
        }
    )


def _with_grpc(link: Link) -> Link:
    return replace(link, round_trip_s=link.round_trip_s + GRPC_ROUND_TRIP_S)


def estimated_speed(device: InventoryDevice, layout: ModelLayout, demand: Demand, *, n_ubatch: int) -> Speed:
    """How long the device would take for this model's layers. Where its compute is not known, as if it had no end."""
    kinds = layer_kinds(layout)
    used = layout.n_expert_used / layout.n_expert if layout.n_expert else 1.0
    sizes = sorted({1, *_doubled(demand.n_batch), demand.n_sequences, min(PROMPT_TOKENS, demand.n_batch, demand.n_ctx)})

    def curve(work: _Work, most_tokens: int) -> Curve:
        tokens = [(n, min(n, most_tokens)) for n in sizes]
        return Curve(tuple((n, _seconds(device, work, computed, used, n_ubatch)) for n, computed in tokens))

    def hosted_curve(work: _Work) -> Curve:
        on_device = curve(replace(work, expert_bytes=0, expert_elements=0), demand.n_batch)
        in_ram = [
            _expert_bytes_read(work, n, used, n_ubatch) / (device.ram_bytes_per_s * BANDWIDTH_EFFICIENCY) for n in sizes
        ]
        return Curve(tuple((n, on_device.at(n) + seconds) for n, seconds in zip(sizes, in_ram, strict=True)))

    firsts = [kinds.index(kind) for kind in range(max(kinds) + 1)]
    works = [_work([tensor for tensor in layout.tensors if tensor.layer == first]) for first in firsts]
    layers = tuple(curve(work, demand.n_batch) for work in works)
    hosted = tuple(map(hosted_curve, works)) if device.ram_bytes else None
    # Of a prompt only its last token goes through the output layer, of decode one of each sequence.
    return Speed(kinds, layers, curve(_output_work(layout, demand), demand.n_sequences), hosted)


def _doubled(n_most: int) -> list[int]:
    return [1 << power for power in range(n_most.bit_length()) if 1 << power <= n_most]


def _work(tensors: list[TensorLayout]) -> _Work:
    dense = [tensor for tensor in tensors if not tensor.is_expert]
    experts = [tensor for tensor in tensors if tensor.is_expert]
    return _Work(
        sum(tensor.n_bytes for tensor in dense),
        sum(tensor.n_bytes for tensor in experts),
        sum(tensor.n_elements for tensor in dense),
        sum(tensor.n_elements for tensor in experts),
    )


def _output_work(layout: ModelLayout, demand: Demand) -> _Work:
    """Its bytes as llama.cpp counts them; its weights may be the embedding's."""
    name = "token_embd.weight" if demand.costs.tied_output else "output.weight"
    n_elements = sum(tensor.n_elements for tensor in layout.tensors if tensor.name == name)
    return _Work(demand.costs.output_bytes, 0, n_elements, 0)


def _seconds(device: InventoryDevice, work: _Work, n_tokens: int, used: float, n_ubatch: int) -> float:
    """For one batch, of which each ubatch reads the weights."""
    n_reads = -(-n_tokens // n_ubatch)
    n_bytes = n_reads * work.dense_bytes + _expert_bytes_read(work, n_tokens, used, n_ubatch)
    read_s = n_bytes / (device.bytes_per_s * BANDWIDTH_EFFICIENCY)
    if device.flops is None:
        return read_s
    n_operations = 2 * n_tokens * (work.dense_elements + used * work.expert_elements)
    return max(read_s, n_operations / (device.flops * COMPUTE_EFFICIENCY))


def _expert_bytes_read(work: _Work, n_tokens: int, used: float, n_ubatch: int) -> float:
    """Each ubatch of a batch reads all experts that any of its tokens uses."""
    read = 1 - (1 - used) ** min(n_tokens, n_ubatch)
    return -(-n_tokens // n_ubatch) * read * work.expert_bytes
