# SPDX-License-Identifier: MIT
"""JSON schemas as grammars: whatever a model says under the grammar is valid by the schema.

Called by the HTTP API, in a thread, and by whoever wants a `SamplingParams.grammar` for a schema. Pure and bounded: a
schema is read in about a second at most, whatever it is; what no grammar can keep is refused with the place in it.

llama.cpp has a converter of its own (common/json-schema-to-grammar.cpp), not in its library, and llama-cpp-python an
older copy in Python. They leave out what they do not know (bounds of numbers with decimals, lengths beside patterns,
`oneOf`'s "only one", all but a few keywords), which lets invalid output through; hence this one.

Follow a schema through: `reading` (its shapes) → `conversion` (a rule for each) → `grammar` (text for llama.cpp).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

from coordinator.errors import SchemaError
from coordinator.json_schema.conversion import Conversion
from coordinator.json_schema.grammar import ROOT
from coordinator.json_schema.work import Work

ANY_OBJECT: Mapping[str, object] = {"type": "object"}
"""What `response_format` calls a JSON object."""

MAX_SCHEMA_CHARACTERS = 256 * 1024
_CACHED = 64
"""Grammars that are kept: clients send the same schema with every request."""


def grammar_of(schema: Mapping[str, object] | bool, *, root: str = ROOT, work: Work | None = None) -> str:
    """The grammar, in llama.cpp's GBNF, of all that is valid by a JSON schema. Takes up to about a second.

    >>> held = SamplingParams(grammar=grammar_of({"enum": ["yes", "no"]}))
    >>> mesh.generate("A llama is an animal: ", sampling=held).wait().text in ('"yes"', '"no"')
    True

    Args:
        schema: a document by itself: what it refers to is in it.
        root: name of the rule to begin at; another than "root" for rules that go beside those of other schemas.
        work: what may be done for all of them.

    Raises:
        SchemaError: the schema is none, nothing can satisfy it, or no grammar can keep it.
    """
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise SchemaError("it is not JSON", "#") from None
    if len(text) > MAX_SCHEMA_CHARACTERS:
        raise SchemaError(f"it is larger than {MAX_SCHEMA_CHARACTERS >> 10} KiB: make it smaller", "#")
    grammar, n_steps = _grammar_of(text, root)
    if work is not None:
        work.spend(n_steps)
    return grammar


@functools.lru_cache(_CACHED)
def _grammar_of(text: str, root: str) -> tuple[str, int]:
    try:
        conversion = Conversion(json.loads(text), root)
        return conversion.text(), conversion.n_steps
    except RecursionError:
        raise SchemaError("its parts lie too deep in one another: make it flatter", "#") from None


__all__ = ["ANY_OBJECT", "ROOT", "SchemaError", "Work", "grammar_of"]
