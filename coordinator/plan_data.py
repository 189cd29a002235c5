# SPDX-License-Identifier: MIT
"""A plan as data for JSON: what `caravan plan --json` prints, and `/plan` answers. Pure."""

from __future__ import annotations

from coordinator.plan import Alternative, Plan
from coordinator.prediction import Prediction


def plan_as_data(plan: Plan) -> dict[str, object]:
    """All that the plan tells a person, and its bytes."""
    demand = plan.demand
    return {
        "model": demand.model,
        "n_layer": demand.n_layer,
        "n_ctx": demand.n_ctx,
        "n_sequences": demand.n_sequences,
        "stages": [
            {
                "worker": stage.worker,
                "address": stage.address,
                "device": stage.device,
                "layer_start": stage.layers.start,
                "layer_end": stage.layers.end,
                "weights_bytes": stage.memory.weights_bytes,
                "kv_bytes": stage.memory.kv_bytes,
                "compute_bytes": stage.memory.compute_bytes,
                "host_bytes": stage.memory.host_bytes,
                "n_cpu_moe": stage.n_cpu_moe,
                "speed_factor": stage.speed_factor,
                "free_bytes": stage.free_bytes,
            }
            for stage in plan.stages
        ],
        "basis": plan.basis,
        "headline": plan.headline,
        "prediction": None if plan.prediction is None else _speeds(plan.prediction),
        "alternatives": list(map(_alternative, plan.alternatives)),
        "notes": list(plan.sentences),
    }


def _alternative(alternative: Alternative) -> dict[str, object]:
    hosted = alternative.n_cpu_moe or (0,) * len(alternative.stages)
    return {
        "label": alternative.label,
        "weights_bytes": alternative.size_bytes,
        "stages": [
            {"worker": name, "layer_start": layers.start, "layer_end": layers.end, "n_cpu_moe": n_cpu_moe}
            for (name, layers), n_cpu_moe in zip(alternative.stages, hosted, strict=True)
        ],
        "prediction": _speeds(alternative.prediction),
    }


def _speeds(prediction: Prediction) -> dict[str, object]:
    return {
        "tokens_per_s": prediction.tokens_per_s,
        "parallel": prediction.parallel,
        "parallel_tokens_per_s": prediction.parallel_tokens_per_s,
        "ttft_s": prediction.ttft_s,
        "stage_s": list(prediction.stage_s),
        "hops_s": prediction.hops_s,
    }
