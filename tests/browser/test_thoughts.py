# SPDX-License-Identifier: MIT
"""What a model thinks before it answers, on the page."""

from __future__ import annotations

from pathlib import Path

from tests.browser.conftest import Look, Open, answer_with, ask
from tests.coordinator.caravan_command import ALONE, served_url, started
from tests.models import CHAT_TEMPLATE, write_model


def test_thoughts_are_folded_away_above_the_answer(tmp_path: Path, opened: Open, look: Look) -> None:
    template = CHAT_TEMPLATE + "{# </think> #}"
    model = write_model(tmp_path / "thinker.gguf", "llama", with_text=True, chat_template=template)
    with started("serve", model, "--local", "2", "--context", "512", "--listen", "127.0.0.1:0", *ALONE) as process:
        page = opened(served_url(process))
        answer_with(page, 'root ::= "<think>Hm, <b>two</b>.</think>It is two."')
        ask(page, "One and one?")
        page.locator(".note").wait_for()
        answer = page.locator(".message.assistant")
        assert answer.locator(".text").inner_text() == "It is two."
        assert not answer.locator(".thoughts p").is_visible()
        answer.locator(".thoughts summary").click()
        assert answer.locator(".thoughts p").inner_text() == "Hm, <b>two</b>."
        assert page.locator(".message.user .thoughts").is_hidden()
        look(page, "thoughts")
