# SPDX-License-Identifier: MIT
"""Experts in system memory: of which layers of a stage, how many bytes, and how llama.cpp is told. Pure; called while a
stage loads.
"""

from __future__ import annotations

from dataclasses import dataclass

from native.layout import EXPERT_NAME, ModelLayout
from native.ranges import LayerRange


@dataclass(frozen=True, slots=True)
class HostExperts:
    """The experts of these layers lie in system memory, `n_bytes` of them, and are computed there."""

    layers: tuple[int, ...] = ()
    n_bytes: int = 0

    @property
    def pattern(self) -> str:
        """The names of these experts as a regular expression; not for no layers. Source: llm_ffn_block_regex in
        common/common.h, which llama.cpp's own --n-cpu-moe calls for one layer after another."""
        return rf"^blk\.({'|'.join(map(str, self.layers))}){EXPERT_NAME}"


def host_experts(layout: ModelLayout, layers: LayerRange, n_cpu_moe: int) -> HostExperts:
    """Those of the first `n_cpu_moe` layers of the range that have experts; layers without any do not count.

    Raises:
        ValueError: the range has fewer such layers.
    """
    by_layer: dict[int, int] = {}
    for tensor in layout.tensors:
        if tensor.is_expert and tensor.layer is not None and tensor.layer in layers:
            by_layer[tensor.layer] = by_layer.get(tensor.layer, 0) + tensor.n_bytes
    if not 0 <= n_cpu_moe <= len(by_layer):
        raise ValueError(
            f"the experts of {n_cpu_moe} layers were asked for in system memory (n_cpu_moe), and of layers {layers} of"
            f" {layout.path.name} {len(by_layer)} have experts"
        )
    chosen = tuple(sorted(by_layer)[:n_cpu_moe])
    return HostExperts(chosen, sum(by_layer[layer] for layer in chosen))
