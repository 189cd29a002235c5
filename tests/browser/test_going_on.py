# SPDX-License-Identifier: MIT
"""The connection breaks in the middle of an answer: the server is killed and started again, or the page is left."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.browser.conftest import SERVE, Look, Open, answer_with, ask
from tests.coordinator.caravan_command import served_url, started, wait_until

_STORY = "Tell me a story about a llama."
_COLD = "localStorage.setItem('caravan.settings', JSON.stringify({temperature: 0}))"


def _here() -> tuple[str, ...]:
    """Where a server is to listen each time that it is started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return ("--listen", f"127.0.0.1:{free.getsockname()[1]}")


@pytest.mark.timeout(180)
def test_an_answer_goes_on_when_the_server_is_back_or_the_page_is(opened: Open, look: Look, tmp_path: Path) -> None:
    command = (*SERVE, *_here(), "--journal", str(tmp_path / "journal"), "--reconnect-grace", "1m")
    with started(*command) as process:
        page = opened(served_url(process))
        page.evaluate(_COLD)
        answer = page.locator(".message.assistant .text")
        ask(page, _STORY)
        page.locator(".note", has_text="tokens/s").wait_for()
        whole = answer.inner_text()
        page.get_by_role("button", name="New conversation").click()
        ask(page, _STORY)
        answer.locator("p").first.wait_for()
        process.kill()
        page.locator(".state.laying", has_text="goes on by itself when the server is back").wait_for()
        page.locator("#model", has_text="not reachable").wait_for()
        look(page, "server-lost")
        process.wait()
    assert len(answer.inner_text()) < len(whole)
    with started(*command) as process:
        page.locator(".note", has_text="s without the server").wait_for(timeout=60_000)
        assert answer.inner_text() == whole
        look(page, "server-back")
        page.get_by_role("button", name="New conversation").click()
        ask(page, _STORY)
        answer.locator("p").first.wait_for()
        page.reload()
        page.locator("#conversations .title").first.click()
        page.locator(".message.assistant:not(.writing) .note").wait_for()
        assert answer.inner_text() == whole
        page.get_by_role("button", name="New conversation").click()
        ask(page, _STORY)
        answer.locator("p").first.wait_for()
        page.keyboard.press("Escape")
        page.locator(".note", has_text="stopped").wait_for()
        # It does not go on without its reader, as it would for a minute.
        wait_until(lambda: 'reason="cancelled"} 1.0\n' in page.request.get(f"{page.url.rstrip('/')}/metrics").text())


@pytest.mark.timeout(120)
def test_without_a_journal_the_page_says_so_and_offers_to_ask_again(opened: Open, look: Look) -> None:
    command = (*SERVE, *_here())
    with started(*command) as process:
        page = opened(served_url(process))
        answer_with(page, 'root ::= "ab " root')
        ask(page, _STORY)
        page.locator(".message.assistant .text", has_text="ab ab").wait_for()
        process.kill()
        page.locator(".state.error", has_text="a server with a journal would go on with it").wait_for()
        look(page, "server-lost-without-journal")
        process.wait()
    with started(*command) as process:
        served_url(process)
        page.unroute_all()
        page.get_by_role("button", name="Try again").click()
        page.locator(".note", has_text="tokens/s").wait_for()
        assert "ab ab" not in page.locator(".message.assistant .text").inner_text()
