# SPDX-License-Identifier: MIT
"""The kinds of tiny models that tests write: for each, an architecture of llama.cpp with metadata and tensors that are
as small as it allows and as different from the other kinds as possible. Pure data; `tests.models` writes the files."""

from tests.model_kinds.encoders import ENCODERS
from tests.model_kinds.parts import Kind, Metadata, Size, Tensors, Value
from tests.model_kinds.recurrent import RECURRENT
from tests.model_kinds.rerankers import RERANKERS
from tests.model_kinds.transformers import REFUSED, TRANSFORMERS

# Everything that a line runs and that writes; ENCODERS it runs for embeddings, RERANKERS to rank documents.
KINDS: dict[str, Kind] = TRANSFORMERS | RECURRENT

__all__ = ["ENCODERS", "KINDS", "REFUSED", "RERANKERS", "Kind", "Metadata", "Size", "Tensors", "Value"]
