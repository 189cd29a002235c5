# SPDX-License-Identifier: MIT
"""How an answer is sampled, as llama-server tells it. Pure. Names, and values of what there is not here: `task_params`
in llama.cpp's tools/server/server-task.cpp, and its defaults, with which those samplers do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coordinator.http.schemas.sampling import SamplingFields
from native import SamplingParams

NO_LIMIT = -1

_PASSED_ON = (
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_OFF: Mapping[str, Any] = {
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.1,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.1,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.9,
    "n_keep": 0,
    "n_discard": 0,
    "ignore_eos": False,
    "stream": False,
    "min_keep": 0,
    "chat_format": "Content-only",
    "reasoning_format": "deepseek",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "samplers": ["penalties", "top_k", "typ_p", "top_p", "min_p", "temperature"],
    "speculative.types": "none",
    "timings_per_token": False,
    "post_sampling_probs": False,
    "backend_sampling": False,
    "lora": [],
}


def settings_of(sampling: SamplingParams, n_predict: int = NO_LIMIT) -> dict[str, Any]:
    """Those of /props and /slots; the limit has two names."""
    told = {name: getattr(sampling, name) for name in _PASSED_ON}
    return {**_OFF, **told, "max_tokens": n_predict, "n_predict": n_predict, "n_probs": sampling.n_top_logprobs}


def settings_of_request(asked: SamplingFields, sampling: SamplingParams) -> dict[str, Any]:
    """Those of a request, with which it was answered."""
    limit = asked.token_limit
    return {
        **settings_of(sampling, NO_LIMIT if limit is None else limit),
        "n_keep": asked.n_keep or 0,
        "ignore_eos": bool(asked.ignore_eos),
        "stream": bool(asked.stream),
        "timings_per_token": bool(asked.timings_per_token),
        "stop": list(asked.stop),
        "logit_bias": [{"bias": bias, "token": token} for token, bias in sampling.logit_bias],
        "grammar": sampling.grammar,
        "grammar_lazy": False,
        "grammar_triggers": [],
        "preserved_tokens": list(sampling.visible_tokens),
        "dry_sequence_breakers": ["\n", ":", '"', "*"],
    }
