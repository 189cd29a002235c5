# SPDX-License-Identifier: MIT
"""Kinds of models that say how well a document answers a query: some of the others, with a head behind."""

from __future__ import annotations

from collections.abc import Sequence

from tests.model_kinds.encoders import ENCODERS
from tests.model_kinds.parts import Kind, Metadata, Size, Tensors, with_biases
from tests.model_kinds.transformers import TRANSFORMERS

_RANK = 4
"""Source: enum llama_pooling_type in include/llama.h."""

_LABELS = ["yes", "no"]
_N_EMBD = Size(4).n_embd

_TOLD_APART: Metadata = {
    "tokenizer.ggml.add_eos_token": True,
    "tokenizer.ggml.add_sep_token": True,
    "tokenizer.ggml.seperator_token_id": 3,
}
"""Query and document end with EOS, and between them is a separator."""

_BY_TEMPLATE: Metadata = {"tokenizer.chat_template.rerank": "<s>Query: {query}\nDocument: {document}</s>"}


def _ranking(
    kind: Kind, what: str, head: Tensors, *, vocabulary: Metadata | None = None, labels: Sequence[str] = ()
) -> Kind:
    """A kind with that head, whose tensors are as the kind's own width wants them."""
    more: Metadata = {"pooling_type": _RANK}
    if labels:
        more["classifier.output_labels"] = labels
    return Kind(
        kind.architecture,
        what,
        lambda s: kind.metadata(s) | more,
        lambda s: kind.tensors(s) | head,
        kind.size,
        vocabulary or {},
    )


RERANKERS: dict[str, Kind] = {
    "bert-ranking": _ranking(
        ENCODERS["bert"],
        "a dense layer and one number behind it, as bge-reranker",
        with_biases({"cls.weight": (_N_EMBD, _N_EMBD), "cls.output.weight": (_N_EMBD, 1)}),
        vocabulary=_TOLD_APART,
    ),
    "jina-bert-v2-ranking": _ranking(
        ENCODERS["jina-bert-v2"], "one number alone", with_biases({"cls.weight": (_N_EMBD, 1)})
    ),
    "modern-bert-ranking": _ranking(
        ENCODERS["modern-bert"],
        "a dense layer with a norm, two labels",
        {
            "cls.weight": (_N_EMBD, _N_EMBD),
            "cls.norm.weight": (_N_EMBD,),
            **with_biases({"cls.output.weight": (_N_EMBD, 2)}),
        },
        labels=_LABELS,
    ),
    "qwen3-ranking": _ranking(
        TRANSFORMERS["qwen3"],
        "a chat model whose last token says yes or no",
        {"cls.output.weight": (_N_EMBD, 2)},
        vocabulary=_BY_TEMPLATE,
        labels=_LABELS,
    ),
}
