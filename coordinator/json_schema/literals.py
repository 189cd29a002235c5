# SPDX-License-Identifier: MIT
"""Values that a schema lists, as JSON writes them; what several begin with is written once."""

from __future__ import annotations

import json
from collections.abc import Iterable

from coordinator.json_schema.expression import Expression, Text, choice, sequence
from coordinator.json_schema.shape import Json

_MAX_FORKS = 40
"""One within another; deeper ones are listed as they are."""


def literal(value: Json) -> Text:
    """The value, as JSON writes it without spaces."""
    return Text(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def literals(values: Iterable[Json]) -> Expression:
    """One of the values."""
    return _fork(sorted({literal(value).text for value in values}), 0)


def _fork(texts: list[str], depth: int) -> Expression:
    """One of the texts, which are sorted."""
    if len(texts) == 1 or depth > _MAX_FORKS:
        return choice(Text(text) for text in texts)
    shared = _common_start(texts[0], texts[-1])
    if shared:
        return sequence(Text(shared), _fork([text[len(shared) :] for text in texts], depth + 1))
    groups: dict[str, list[str]] = {}
    for text in texts:
        groups.setdefault(text[:1], []).append(text)
    return choice(_fork(group, depth + 1) for group in groups.values())


def _common_start(one: str, other: str) -> str:
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:n]
