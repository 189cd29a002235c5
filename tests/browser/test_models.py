# SPDX-License-Identifier: MIT
"""What the page offers of the server's models: one that makes no text, and the choice among several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Look, Open, answer_with, ask
from tests.coordinator.caravan_command import ALONE, caravan_here, served_url, started
from tests.models import write_model

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.mark.parametrize(
    ("kind", "does", "path", "found"),
    [
        ("bert", "makes embeddings", "v1/embeddings", "data"),
        ("bert-ranking", "ranks documents", "v1/rerank", "results"),
    ],
)
def test_a_model_that_writes_nothing_is_offered_no_chat(
    tmp_path: Path, opened: Open, look: Look, kind: str, does: str, path: str, found: str
) -> None:
    model = write_model(tmp_path / f"{kind}.gguf", kind, with_text=True)
    with started("serve", model, "--local", "2", "--listen", "127.0.0.1:0", *ALONE) as process:
        url = served_url(process)
        page = opened(url)
        page.get_by_role("heading", name=f"{kind} {does}").wait_for()
        assert not page.get_by_label("Your message").is_visible()
        assert not page.get_by_role("button", name="New conversation").is_visible()
        command = page.get_by_label("Command").inner_text()
        assert f"curl {url}/{path}" in command
        body = command[command.index("-d '") + 4 :].removesuffix("'")
        answer = page.request.post(f"{url}/{path}", data=json.loads(body))
        assert sorted(each["index"] for each in answer.json()[found]) == [0, 1]
        page.get_by_role("heading", name="local-2").wait_for()
        page.locator(".waterfall .computing").first.wait_for()
        look(page, kind)


def test_a_conversation_keeps_the_model_that_was_chosen_for_it(url: str, opened: Open, look: Look) -> None:
    page = opened("about:blank")
    _tell_models(page, demo="loaded", other="unloaded", vectors="unloaded")
    page.goto(url)
    choice = page.get_by_label("Model", exact=True)
    choice.wait_for()
    assert choice.input_value() == "demo"
    assert choice.locator("option").all_inner_texts() == [
        "demo",
        "other (not loaded)",
        "vectors (not loaded, embeddings)",
    ]
    choice.press("ArrowDown")
    page.get_by_text("other is not loaded: the first answer takes as long as loading does.").wait_for()
    look(page, "models")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Once")
    assert json.loads(sent.value.post_data or "")["model"] == "other"
    page.locator(".note", has_text="other · ").wait_for()
    _tell_models(page, demo="loaded", other="loaded", vectors="unloaded")
    page.locator("#notice").wait_for(state="hidden")
    page.get_by_role("button", name="New conversation").click()
    choice.select_option("vectors")
    page.get_by_role("heading", name="vectors makes embeddings").wait_for()
    choice.select_option("demo")
    page.get_by_label("Your message").wait_for()
    page.reload()
    choice.wait_for()
    assert choice.input_value() == "demo"
    page.locator("#conversations .title").first.click()
    assert choice.input_value() == "other"


@pytest.mark.timeout(180)
def test_of_two_real_models_the_chosen_one_is_loaded_and_answers(tmp_path: Path, opened: Open, look: Look) -> None:
    if "--models-max" not in caravan_here("serve", "--help").stdout:
        pytest.skip("this caravan serve takes one model only")
    other = write_model(tmp_path / "other.gguf", "llama", with_text=True)
    command = ("serve", "demo", other, "--local", "2", "--context", "512", "--listen", "127.0.0.1:0", *ALONE)
    with started(*command) as process:
        page = opened(served_url(process))
        choice = page.get_by_label("Model", exact=True)
        choice.wait_for()
        choice.select_option("other")
        page.get_by_text("other is not loaded: the first answer takes as long as loading does.").wait_for()
        page.get_by_text("other is not loaded, so it has no line now.").wait_for()
        answer_with(page, 'root ::= "It is two."')
        ask(page, "One and one?")
        page.locator(".note", has_text="other · ").wait_for(timeout=60_000)
        assert page.locator(".message.assistant .text").inner_text() == "It is two."
        page.get_by_text("other, by the last 10 seconds").wait_for()
        look(page, "two-models")


def _tell_models(page: Page, **states: str) -> None:
    """The server has these from now on, as far as this page hears."""
    models = [
        {
            "id": name,
            "status": {"value": state},
            "architecture": {"output_modalities": ["embeddings" if name == "vectors" else "text"]},
        }
        for name, state in states.items()
    ]
    page.unroute_all()
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))
