# SPDX-License-Identifier: MIT
"""How a chat's answers are sampled, changed while it goes on: by the names, types and bounds of the flags. Pure."""

from __future__ import annotations

from dataclasses import replace

import click

from coordinator.admission import RANDOM_SEED
from coordinator.cli.exits import UserError
from coordinator.cli.options import MAX_TOKENS, SAMPLING, SEED, SamplingOptions

_NONE, _RANDOM = "none", "random"


def changed(sampling: SamplingOptions, name: str, text: str) -> SamplingOptions:
    """The same with one of them as it was typed.

    Raises:
        UserError: There is none of that name, or it cannot be that.
    """
    name = name.removeprefix("--").replace("_", "-")
    try:
        if name == "max-tokens":
            n_tokens = None if text == _NONE else MAX_TOKENS.convert(text, None, None)
            return replace(sampling, max_tokens=n_tokens)
        if name == "seed":
            seed = RANDOM_SEED if text == _RANDOM else SEED.convert(text, None, None)
            return replace(sampling, params=replace(sampling.params, seed=seed))
        field = name.replace("-", "_")
        if field not in SAMPLING:
            raise UserError(f"there is nothing called {name}; there are {', '.join(_names())}")
        value = SAMPLING[field][1].convert(text, None, None)
        return replace(sampling, params=replace(sampling.params, **{field: value}))
    except click.BadParameter as error:
        raise UserError(f"{name}: {error.message}") from None


def described(sampling: SamplingOptions) -> str:
    """All of them, a line each."""
    params = sampling.params
    values: dict[str, object] = {name.replace("_", "-"): getattr(params, name) for name in SAMPLING}
    values["seed"] = _RANDOM if params.seed == RANDOM_SEED else params.seed
    values["max-tokens"] = _NONE if sampling.max_tokens is None else sampling.max_tokens
    return "\n".join(f"{name} {value}" for name, value in values.items())


def _names() -> list[str]:
    return [*(name.replace("_", "-") for name in SAMPLING), "seed", "max-tokens"]
