# SPDX-License-Identifier: MIT
"""What llama.cpp's tests check of reranking, with a tiny model whose scores mean nothing: so they are compared."""

from __future__ import annotations

from comparison.check import Check, Facts
from comparison.peer import Peer

_RERANK = "test_rerank.py::"
_ROUTE = "POST /v1/rerank"
_QUERY = "the rain"
_TEXTS = ["it is wet", "another one", "a", "the sun"]


def _documents(peer: Peer) -> Facts:
    answer = peer.post("/rerank", query=_QUERY, documents=_TEXTS)
    others = [peer.post(path, query=_QUERY, documents=_TEXTS) for path in ("/reranking", "/v1/rerank", "/v1/reranking")]
    return {
        "status": answer.status,
        "form": sorted(answer.body),
        "object": answer["object"],
        "results": [
            [(each["index"], round(each["relevance_score"], 4)) for each in told["results"]]
            for told in (answer, *others)
        ],
    }


def _texts(peer: Peer) -> Facts:
    answer = peer.post("/rerank", query=_QUERY, texts=_TEXTS, return_text=True)
    return {
        "status": answer.status,
        "results": [(each["index"], round(each["score"], 4), each["text"]) for each in answer.body],
    }


def _refused(peer: Peer) -> Facts:
    answers = [peer.post("/rerank", query=_QUERY, documents=each) for each in ([], None, 123, [1, 2, 3])]
    answers += [peer.post("/rerank", documents=_TEXTS), peer.post("/rerank", query=1, documents=_TEXTS)]
    return {"statuses": [each.status for each in answers], "types": [each.error_type for each in answers]}


def _usage(peer: Peer) -> Facts:
    asked = [("the rain", ["it is wet", "a"]), ("who?", ["another one ", "the sun, the rain"])]
    return {"usage": [peer.post("/rerank", query=query, documents=texts)["usage"] for query, texts in asked]}


def _top(peer: Peer) -> Facts:
    asked = [{}, {"top_n": 2}, {"top_n": 4}, {"top_n": 99}]
    return {
        name: [
            [each["index"] for each in found(peer.post("/rerank", query=_QUERY, **{name: _TEXTS}, **more).body)]
            for more in asked
        ]
        for name, found in (("documents", lambda body: body["results"]), ("texts", lambda body: body))
    }


RERANK: tuple[Check, ...] = (
    Check((f"{_RERANK}test_rerank",), _ROUTE, "documents by their scores, by all of the route's names", _documents),
    Check((f"{_RERANK}test_rerank_tei_format",), _ROUTE, "`texts`: the form of Text Embeddings Inference", _texts),
    Check((f"{_RERANK}test_invalid_rerank_req",), _ROUTE, "what is no list of documents is refused", _refused),
    Check((f"{_RERANK}test_rerank_usage",), _ROUTE, "`usage`", _usage),
    Check((f"{_RERANK}test_rerank_top_n", f"{_RERANK}test_rerank_tei_top_n"), _ROUTE, "`top_n`, in both forms", _top),
)  # fmt: skip
