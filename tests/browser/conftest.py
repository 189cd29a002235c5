# SPDX-License-Identifier: MIT
"""Chromium on pages of a real `caravan serve`, and what its pages looked like."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.coordinator.caravan_command import ALONE, ROOT, served_url, started

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright, Route

_SCREENSHOTS = ROOT / "build" / "screenshots"
"""To be looked at after a change; git ignores them."""

_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

SERVE = ("serve", "demo", "--listen", "127.0.0.1:0", "--local", "2", "--context", "2048", "--parallel", "4", *ALONE)

Open = Callable[..., "Page"]
Look = Callable[["Page", str], None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is the browser's."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """What drives browsers."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install --group browser")
    with api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium, the system's own: one for each test, so that nothing of it is left behind."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine: install the system's package chromium")
    browser = playwright.chromium.launch(executable_path=path, args=_OPTIONS)
    yield browser
    browser.close()


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    """Of a server over two workers, for tests that harm neither."""
    with started(*SERVE) as process:
        yield served_url(process)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Open]:
    """Opens a page; what goes wrong in it fails the test. Other arguments are the browser context's."""
    faults: list[str] = []

    def open_page(url: str, **options: Any) -> Page:  # noqa: ANN401 -- those of Browser.new_context
        page = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options)).new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        # Chromium itself tells of each answer that is no 200.
        page.on("console", lambda said: _note(faults, said.type, said.text))
        page.goto(url)
        return page

    yield open_page
    assert not faults


def _note(faults: list[str], kind: str, text: str) -> None:
    if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
        faults.append(text)


@pytest.fixture
def look() -> Look:
    """Keeps a picture of a page, by a name."""
    _SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def keep(page: Page, name: str) -> None:
        # Playwright itself would write it in a thread that stays.
        (_SCREENSHOTS / f"{name}.png").write_bytes(page.screenshot())

    return keep


def answer_with(page: Page, grammar: str) -> None:
    """From now on the model's answers on this page are held to a grammar, which the page itself cannot ask for."""

    def with_grammar(route: Route) -> None:
        body = json.loads(route.request.post_data or "{}") | {"grammar": grammar}
        route.continue_(post_data=json.dumps(body))

    page.route("**/v1/chat/completions", with_grammar)


def ask(page: Page, text: str) -> None:
    """As a person does it."""
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")
