# SPDX-License-Identifier: MIT
"""The page for who uses the keyboard alone, a screen reader, or wants nothing to move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Look, Open, answer_with, ask

if TYPE_CHECKING:
    from playwright.sync_api import Page

_PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
_ANSWER = """root ::= "# One\\n\\n`two` [three](https://example.org) ab " rest
rest ::= "ab " rest"""
_CHECKED = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
_FOCUSED = """(() => {
  const on = document.activeElement;
  const looks = [on, on.closest("form") ?? on].map((each) => getComputedStyle(each));
  const isMarked = looks.some((each) => each.outlineStyle !== "none" || each.boxShadow !== "none");
  return [on.getAttribute("aria-label") ?? on.labels?.[0]?.textContent ?? on.textContent.trim(), isMarked];
})()"""
_NOTE_WHAT_IS_SAID = """window.said = [];
new MutationObserver(() => { if (status_.textContent) said.push(status_.textContent); })
  .observe(window.status_ = document.getElementById("status"), { childList: true });"""


def _check(page: Page) -> None:
    """Holds the page, as it is now, against axe-core's rules."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install --group browser").Axe()
    found = axe.run(page, options=_CHECKED).response["violations"]
    told = [(each["impact"], each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
    assert not told


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["desk", "phone"])
def test_axe_finds_nothing_in_any_state(url: str, opened: Open, scheme: str, device: str) -> None:
    # The policy forbids axe, too.
    page = opened(url, bypass_csp=True, color_scheme=scheme, **(_PHONE if device == "phone" else {}))
    page.get_by_text("demo is ready on").wait_for()
    _check(page)
    answer_with(page, _ANSWER)
    ask(page, "A story")
    page.locator(".message.assistant.writing .text", has_text="ab ab").wait_for()
    _check(page)
    page.get_by_role("button", name="Stop").click()
    page.locator(".note", has_text="stopped").wait_for()
    _check(page)
    if device == "phone":
        page.get_by_role("button", name="Live line").click()
    page.locator(".plan summary").click()
    page.get_by_text("sequences of 2048 tokens").wait_for()
    page.locator(".waterfall .computing").first.wait_for()
    _check(page)
    page.get_by_role("button", name="Settings").click()
    _check(page)
    page.keyboard.press("Escape")
    if device == "phone":
        page.get_by_role("button", name="Conversations").click()
        _check(page)


def test_everything_is_reached_and_seen_by_keyboard_alone(url: str, opened: Open, look: Look) -> None:
    page = opened(url)
    page.get_by_text("demo is ready on").wait_for()
    page.keyboard.type("A story")
    page.keyboard.press("Enter")
    page.locator(".note", has_text="tokens/s").wait_for()
    page.get_by_role("link", name="Skip to the message").focus()
    reached = ["Skip to the message"]
    while reached[-1] != "The plan":
        page.keyboard.press("Tab")
        name, is_marked = page.evaluate(_FOCUSED)
        assert is_marked, name
        reached.append(name)
        assert len(reached) < 40, reached
    expected = ["Skip to the message", "Conversations", "Live line", "Settings", "Dark colours", "New conversation"]
    expected += ["A story", "Rename A story", "Delete A story", "Copy", "Edit", "Copy", "Again", "Your message", "Send"]
    assert [name for name in reached if name in expected] == expected
    page.keyboard.press("Enter")
    page.get_by_text("one device alone").wait_for()
    page.set_viewport_size({"width": 1280, "height": 1500})
    look(page, "plan")
    page.locator("#open-settings").focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Settings").wait_for()
    assert page.evaluate("document.activeElement.id") == "system"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-settings"
    page.locator("#menu").focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "text"


def test_nothing_moves_and_screen_readers_hear_an_answer_once(url: str, opened: Open) -> None:
    page = opened(url, reduced_motion="reduce")
    page.evaluate(_NOTE_WHAT_IS_SAID)
    answer_with(page, 'root ::= "ab " root')  # which lasts until the page looks at the line
    ask(page, "A story")
    page.locator(".message.assistant.writing .text p").first.wait_for()
    page.locator(".machines.flows").wait_for()
    assert page.evaluate("document.getAnimations().length") == 0
    page.locator(".note", has_text="tokens/s").wait_for()
    text = page.locator(".message.assistant .text").inner_text()
    page.wait_for_function("said.at(-1).startsWith('Answer: ')")
    first, last = page.evaluate("said")
    assert first == "The model answers."
    assert f"Answer: {' '.join(text.split())}".startswith(" ".join(last.split()))
