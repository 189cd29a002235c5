# SPDX-License-Identifier: MIT
"""`/metrics` of a real server, read as Prometheus reads it, and held against its reference."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.coordinator.caravan_command import ROOT
from tests.coordinator.http.conftest import MODEL, PARALLEL

_PAGE = ROOT / "docs" / "metrics.md"
_PROMPT = "Once upon a time there was a llama who carried a lantern over the mountain"

_LINE = {"model": MODEL, "line": "0"}

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def _scraped(client: httpx.Client) -> Samples:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


class _Grown:
    """What one request adds to the samples, or makes of them."""

    def __init__(self, before: Samples, after: Samples) -> None:
        self._before, self._after = before, after

    def __call__(self, name: str, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return self._after[key] - self._before.get(key, 0.0)


def test_a_request_is_counted_wherever_it_leaves_a_mark(raw: httpx.Client) -> None:
    body = {"prompt": _PROMPT, "max_tokens": 8, "temperature": 0}
    raw.post("/v1/completions", json=body)  # so that its prompt is in the cache
    before = _scraped(raw)
    usage = raw.post("/v1/completions", json=body).json()["usage"]
    assert raw.post("/v1/completions", json={}).status_code == 400
    grown = _Grown(before, _scraped(raw))
    assert grown("caravan_http_requests_total", route="/v1/completions", status="200") == 1
    assert grown("caravan_http_requests_total", route="/v1/completions", status="400") == 1
    assert grown("caravan_generated_tokens_total", **_LINE) == usage["completion_tokens"] == 8
    assert grown("caravan_prompt_tokens_total", **_LINE) == usage["prompt_tokens"]
    reused = usage["prompt_tokens_details"]["cached_tokens"]
    assert grown("caravan_prompt_reused_tokens_total", **_LINE) == reused > 0
    assert grown("caravan_requests_ended_total", **_LINE, reason="length") == 1
    assert grown("caravan_time_to_first_token_seconds_count", **_LINE) == 1
    assert grown("caravan_time_to_first_token_seconds_bucket", **_LINE, le="+Inf") == 1
    assert grown("caravan_time_per_token_seconds_count", **_LINE) == 7
    n_frames = grown("caravan_frames_total", **_LINE, kind="decode")
    for worker in ("local-1", "local-2"):
        assert grown("caravan_stage_busy_seconds_total", **_LINE, worker=worker) > 0
        assert grown("caravan_stage_frames_total", **_LINE, worker=worker) >= n_frames > 0
    n_tokens = grown("caravan_stage_tokens_total", **_LINE, worker="local-1")
    sent_bytes = grown("caravan_stage_sent_bytes_total", **_LINE, worker="local-1")
    assert sent_bytes >= 4 * n_tokens
    assert sent_bytes % (4 * n_tokens) == 0  # a hidden state of 32-bit floats for each token
    assert grown("caravan_stage_sent_bytes_total", **_LINE, worker="local-2") == 0


def test_what_holds_now_is_told(raw: httpx.Client) -> None:
    told = _scraped(raw)
    stages = raw.get("/line").json()["lines"][0]["stages"]
    assert told["caravan_ready", frozenset()] == 1
    assert told["caravan_slots", frozenset(_LINE.items())] == PARALLEL
    assert MODEL in {value for name, labels in told for _, value in labels if name == "caravan_info"}
    for stage in stages:
        labels = _LINE.items() | {("worker", stage["worker"])}
        memory = told["caravan_stage_memory_bytes", frozenset(labels | {("kind", "weights")})]
        assert memory == stage["weights_bytes"] > 0
        assert told["caravan_stage_layers", frozenset(labels)] == stage["layer_end"] - stage["layer_start"]


def test_a_path_that_is_no_route_makes_no_label_of_its_own(raw: httpx.Client) -> None:
    for path in ("/nowhere", "/v1/models/nothing", "/page/nothing.js"):
        assert raw.get(path).status_code == 404
    counted = [dict(labels) for name, labels in _scraped(raw) if name == "caravan_http_requests_total"]
    assert {"route": "other", "status": "404"} in counted
    assert {"route": "/v1/models/{model:path}", "status": "404"} in counted
    assert not {"/nowhere", "/v1/models/nothing"} & {labels["route"] for labels in counted}


def test_the_reference_in_the_document_is_what_a_server_tells(
    raw: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    reference = importlib.import_module("metrics_reference").reference()
    assert reference in _PAGE.read_text(encoding="utf-8"), "docs/metrics.md is stale: run scripts/metrics_reference"
    # Of what did not happen yet there is no sample: a request that ended, and its status.
    raw.post("/v1/completions", json={"prompt": "Once", "max_tokens": 1})
    named = {line.split("`")[1] for line in reference.splitlines() if line.startswith("| `")}
    families = {
        family.name + "_total" * (family.type == "counter"): len(family.samples)
        for family in text_string_to_metric_families(raw.get("/metrics").text)
    }
    assert set(families) == named
    assert all(families.values())
