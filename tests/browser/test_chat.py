# SPDX-License-Identifier: MIT
"""The chat, as a person meets it."""

from __future__ import annotations

import contextlib
import json
import re
import socket

import pytest

from tests.browser.conftest import SERVE, Look, Open, answer_with, ask
from tests.coordinator.caravan_command import ALONE, caravan_here, served_url, started, wait_until
from tests.line.processes import WorkerProcess
from tests.ports import own_port

_STORY = "Tell me a story about a llama."
_ENDLESS = 'root ::= "ab " root'
_ENDLESS_TEXT = "root ::= [a-z ,.] root"

_MARKDOWN = """# A heading

Some **bold**, *italic* and `inline code`, and a [link](https://example.org/a).

- one
- two
  1. nested

| layer | worker |
|---|---|
| 0-4 | local-1 |

```python
print("<b>hello</b>")
```

> quoted

<img src=x onerror="window.harmed = 1"><script>window.harmed = 1</script>

[run](javascript:window.harmed=1) [data](data:text/html,<script>window.harmed=1</script>)
![picture](https://example.org/p.png) <https://example.org/b> <iframe src="//example.org">
"""


def test_an_empty_page_says_what_is_there_and_where_to_write(url: str, opened: Open, look: Look) -> None:
    page = opened(url)
    page.get_by_text("demo is ready on local-1 and local-2.").wait_for()
    assert page.evaluate("document.activeElement.id") == "text"
    page.get_by_role("heading", name="local-2").wait_for()
    look(page, "empty")


def test_an_answer_streams_in_and_is_there_after_a_reload(url: str, opened: Open, look: Look) -> None:
    page = opened(url)
    ask(page, _STORY)
    page.locator(".message.assistant.writing .text p").first.wait_for()
    look(page, "chatting")
    page.locator(".note", has_text="tokens/s").wait_for()
    text = page.locator(".message.assistant .text").inner_text()
    assert len(text) > 100
    assert page.locator("#status").inner_text().startswith("Answer: ")
    page.reload()
    page.locator("#conversations .title").first.click()
    assert page.locator(".message.assistant .text").inner_text() == text
    look(page, "answered")


def test_stop_regenerate_and_edit(url: str, opened: Open, look: Look) -> None:
    page = opened(url)
    answer_with(page, _ENDLESS)
    ask(page, _STORY)
    page.locator(".message.assistant .text", has_text="ab ab").wait_for()
    page.get_by_role("button", name="Stop").wait_for()
    page.keyboard.press("Escape")
    page.locator(".note", has_text="stopped").wait_for()
    look(page, "stopped")
    page.unroute_all()
    page.get_by_role("button", name="Again").click()
    page.locator(".note", has_text="tokens/s").wait_for()
    assert "ab ab" not in page.locator(".message.assistant .text").inner_text()
    page.get_by_role("button", name="Edit").click()
    assert page.get_by_label("Your message").input_value() == _STORY
    page.get_by_label("Your message").fill("Tell me\nof a troll.")
    page.get_by_role("button", name="Send").click()
    page.locator(".note", has_text="tokens/s").wait_for()
    assert page.locator(".message.user .text").all_inner_texts() == ["Tell me\nof a troll."]


def test_markdown_is_laid_out_and_nothing_in_it_runs(url: str, opened: Open, look: Look) -> None:
    page = opened(url, viewport={"width": 1280, "height": 1100})
    # The model writes what it is held to: the very bytes come by the line.
    answer_with(page, f"root ::= {json.dumps(_MARKDOWN)}")
    ask(page, f"**I** write <b>this</b> {_MARKDOWN[-60:]}")
    page.locator(".note").wait_for()
    text = page.locator(".message.assistant .text")
    for tag in ("h3", "strong", "em", "p > code", "ul > li ol > li", "table td", "pre code", "blockquote"):
        assert text.locator(tag).count() > 0, tag
    assert text.locator("pre code").inner_text() == 'print("<b>hello</b>")'
    links = text.locator("a").evaluate_all("links => links.map(each => [each.getAttribute('href'), each.rel])")
    assert [href for href, _ in links] == [
        "https://example.org/a",
        "https://example.org/p.png",
        "https://example.org/b",
    ]
    assert all("noopener" in rel for _, rel in links)
    assert page.locator("#messages").locator("img, script, iframe, b").count() == 0
    assert '<img src=x onerror="window.harmed = 1">' in text.inner_text()
    assert page.evaluate("window.harmed") is None
    look(page, "markdown")


def test_it_can_be_dark(url: str, opened: Open, look: Look) -> None:
    page = opened(url, color_scheme="dark")
    ask(page, _STORY)
    page.locator(".note").wait_for()
    look(page, "dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_it_fits_a_phone(url: str, opened: Open, look: Look) -> None:
    page = opened(url, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    ask(page, _STORY)
    page.locator(".note").wait_for()
    for name, press in (("phone", None), ("phone-line", "Live line"), ("phone-history", "Conversations")):
        if press is not None:
            page.get_by_role("button", name=press, exact=True).click()
        page.wait_for_timeout(1200)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        look(page, name)


def test_settings_are_kept_and_sent(url: str, opened: Open, look: Look) -> None:
    page = opened(url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Be short.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Tokens at most").fill("7")
    look(page, "settings")
    page.get_by_role("button", name="Save").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Once")
    body = json.loads(sent.value.post_data or "")
    assert (body["temperature"], body["max_tokens"]) == (0.5, 7)
    assert body["messages"][0] == {"role": "system", "content": "Be short."}
    page.locator(".note", has_text=re.compile(r"^7 tokens .* cut off")).wait_for()


def test_conversations_are_renamed_and_deleted(url: str, opened: Open) -> None:
    page = opened(url)
    for text in ("The first", "The second"):
        page.get_by_role("button", name="New conversation").click()
        ask(page, text)
        page.locator(".note").wait_for()
    page.get_by_role("button", name="Rename The second").click()
    page.keyboard.type("Another name")
    page.keyboard.press("Enter")
    assert page.locator("#conversations .title").all_inner_texts() == ["Another name", "The first"]
    page.get_by_role("button", name="Delete The first").click()
    page.get_by_role("button", name="Press again").click()
    assert page.locator("#conversations .title").all_inner_texts() == ["Another name"]
    assert (
        page.evaluate("Object.keys(localStorage).filter(each => each.startsWith('caravan.conversation.')).length") == 1
    )


def test_an_error_is_the_server_s_own_sentence_and_can_be_tried_again(url: str, opened: Open, look: Look) -> None:
    page = opened(url)
    answer_with(page, "no grammar")
    ask(page, _STORY)
    page.locator(".state.error", has_text="grammar").wait_for()
    look(page, "error")
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    page.locator(".note", has_text="tokens/s").wait_for()
    assert not page.locator(".state.error").is_visible()


@pytest.mark.timeout(120)
def test_a_stream_goes_on_with_the_same_text_when_workers_are_killed(opened: Open, look: Look) -> None:
    with contextlib.ExitStack() as stack:
        workers = [WorkerProcess(name) for name in ("one", "two")]
        for worker in workers:
            stack.callback(worker.stop)
        asked = ("--listen", "127.0.0.1:0", "--context", "2048", *(f"--worker={worker.address}" for worker in workers))
        page = opened(served_url(stack.enter_context(started("serve", "demo", *asked, *ALONE))))
        page.evaluate("localStorage.setItem('caravan.settings', JSON.stringify({temperature: 0}))")
        answer_with(page, _ENDLESS_TEXT)
        texts = []
        for kills in (False, True):
            page.get_by_role("button", name="New conversation").click()
            ask(page, _STORY)
            page.locator(".message.assistant .text p").first.wait_for()
            if kills:
                for worker in workers:
                    worker.kill()
                    worker.stop()
                page.locator(".state.laying", has_text="the line is being laid again").wait_for()
                look(page, "worker-killed")
                stack.callback(WorkerProcess("again", "--listen", workers[0].address).stop)
            page.locator(".note", has_text="tokens/s").wait_for(timeout=60_000)
            texts.append(page.locator(".message.assistant .text").inner_text())
        assert texts[0] == texts[1]
        page.locator(".note", has_text=re.compile(r"paused \d+\.\d s while the line was laid again")).wait_for()
        page.locator(".events .resumed").wait_for()
        look(page, "worker-back")
        page.locator(".plan summary").click()
        page.get_by_text("sequences of 2048 tokens").wait_for()
        page.set_viewport_size({"width": 1280, "height": 1700})
        look(page, "events")


@pytest.mark.timeout(120)
def test_a_server_that_wants_a_key_has_it_asked_for(opened: Open, look: Look) -> None:
    key = caravan_here("keys", "add", "browser").stdout.strip()
    with started(*SERVE, "--require-key") as process:
        page = opened(served_url(process))
        page.get_by_role("heading", name="This server wants an API key").wait_for()
        look(page, "key")
        page.keyboard.press("Escape")
        ask(page, _STORY)
        page.get_by_text("the API key is missing").wait_for()
        page.get_by_label("API key", exact=True).fill(key)
        page.get_by_role("button", name="Use it").click()
        page.locator(".note", has_text="tokens/s").wait_for()
        assert page.evaluate("Object.keys(localStorage).filter(each => each.endsWith('.key')).length") == 0
        page.reload()
        page.get_by_role("heading", name="local-2").wait_for()


@pytest.mark.timeout(120)
def test_while_the_model_loads_and_when_the_server_is_gone_the_page_says_so(opened: Open, look: Look) -> None:
    host, port = "127.0.0.1", own_port()
    with started(*SERVE, "--listen", f"{host}:{port}") as process:
        wait_until(lambda: _listens(host, port))
        page = opened(f"http://{host}:{port}")
        page.get_by_text("The model is loading").wait_for()
        look(page, "loading")
        page.get_by_text("demo is ready on").wait_for()
        process.terminate()
        page.locator("#model", has_text=re.compile("not reachable|stopping")).wait_for()
        wait_until(lambda: process.poll() is not None)
        page.locator("#model", has_text="not reachable").wait_for()
        ask(page, _STORY)
        page.locator(".state.error", has_text="The server does not answer").wait_for()
        look(page, "gone")


def _listens(host: str, port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((host, port)) == 0
