# SPDX-License-Identifier: MIT
"""What models take, kept so that it is measured once: a small JSON file for each model and context, in the user's cache
folder. Blocking; what cannot be read or written is not worth an error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.cache import bound_folder, keep_json, key_of
from native import ContextParams, LayerBytes, LayerCosts, versions
from protos.cache_folder import cache_folder

_FOLDER = "costs"
_MOST_KEPT = 64


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """Exact bytes of a model's layers, and what its output layer takes to compute, on this machine's CPU."""

    layers: LayerCosts
    output_compute_bytes: int


def recalled_costs(identity: str, params: ContextParams) -> ModelCosts | None:
    """Of the model of that identity in that context, by the engine that is installed now."""
    try:
        kept = json.loads((cache_folder() / _name(identity, params)).read_text(encoding="utf-8"))
        layers = tuple(LayerBytes(*map(int, layer)) for layer in kept["layers"])
        costs = LayerCosts(layers, int(kept["input_bytes"]), int(kept["output_bytes"]), bool(kept["tied_output"]))
        return ModelCosts(costs, int(kept["output_compute_bytes"]))
    except (OSError, ValueError, TypeError, LookupError):
        return None


def keep_costs(identity: str, params: ContextParams, costs: ModelCosts) -> None:
    """For the next time."""
    name, layers = _name(identity, params), costs.layers
    content = {
        "layers": [list(asdict(layer).values()) for layer in layers.layers],
        "input_bytes": layers.input_bytes,
        "output_bytes": layers.output_bytes,
        "tied_output": layers.tied_output,
        "output_compute_bytes": costs.output_compute_bytes,
    }
    keep_json(name, content)
    bound_folder(_FOLDER, _MOST_KEPT, keeping=[Path(name).name])


def _name(identity: str, params: ContextParams) -> str:
    return f"{_FOLDER}/{key_of(identity, params, versions())}.json"
