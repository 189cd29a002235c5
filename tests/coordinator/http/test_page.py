# SPDX-License-Identifier: MIT
"""The web page's files as the server gives them out, and what they may hold. How it looks and works: tests/browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

import coordinator.http
from coordinator.http.page_files import read_page

_FOLDER = Path(coordinator.http.__file__).parent / "page"
_FILES = sorted(_FOLDER.iterdir())
_MOST_LINES = 300

# Each would take text for HTML or for a program, or leave this server.
_FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|\beval\(|new Function|DOMParser|importScripts"
    r"|@import|url\(|javascript:"
)
# Beneath the path of a proxy it would miss.
_FROM_THE_ROOT = re.compile(r"""(?:ask|askData|ofModel|fetch|URL)\(\s*["'`]/""")
_ELSEWHERE = re.compile(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", re.IGNORECASE)


class _References(HTMLParser):
    """What a page leads to, and what it holds that a strict policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []
        self.inline: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_script = tag in ("script", "style")
        for name, value in attrs:
            if name in ("src", "href") and value is not None and not value.startswith("#"):
                self.paths.append(value)
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


def _references() -> _References:
    found = _References()
    found.feed((_FOLDER / "index.html").read_text(encoding="utf-8"))
    return found


def test_the_page_is_served_with_headers_that_keep_it_to_itself(raw: httpx.Client) -> None:
    page = raw.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.content == (_FOLDER / "index.html").read_bytes()
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert policy["frame-ancestors"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    script = raw.get("/page/main.js")
    assert (script.status_code, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert raw.get("/page/style.css").headers["content-type"] == "text/css; charset=utf-8"


def test_a_browser_that_has_a_file_is_not_sent_it_again(raw: httpx.Client) -> None:
    first = raw.get("/page/style.css")
    assert first.headers["cache-control"] == "no-cache"
    again = raw.get("/page/style.css", headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    other = raw.get("/page/style.css", headers={"If-None-Match": raw.get("/").headers["etag"]})
    assert (other.status_code, other.content) == (200, first.content)
    head = raw.head("/page/style.css")
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])
    assert int(head.headers["content-length"]) == len(first.content)


@pytest.mark.parametrize("path", ["/page/", "/page/nothing.js", "/page/..%2fapp.py", "/page/../app.py", "/index.html"])
def test_no_other_file_is_served(raw: httpx.Client, path: str) -> None:
    assert raw.get(path).status_code == 404


def test_the_page_leads_to_its_own_files_only_and_to_all_that_it_needs() -> None:
    found = _references()
    assert not found.inline
    assert not [path for path in found.paths if path.startswith("/")]
    served = read_page()
    assert {f"/{path}" for path in found.paths} <= served.keys()
    imported = {
        name for path in _FILES if path.suffix == ".js" for name in re.findall(r'from "\./([\w.]+)"', path.read_text())
    }
    assert {f"/page/{name}" for name in imported} <= served.keys()
    linked = {path.removeprefix("page/") for path in found.paths}
    assert {path.name for path in _FILES} == imported | linked | {"index.html"}


def test_nothing_in_the_page_comes_from_elsewhere_or_is_made_of_text() -> None:
    for path in _FILES:
        text = path.read_text(encoding="utf-8")
        assert "SPDX-License-Identifier: MIT" in text, path.name
        assert not _FORBIDDEN.findall(text), path.name
        assert not _FROM_THE_ROOT.findall(text), path.name
        assert not _ELSEWHERE.findall(text.replace("http://www.w3.org/2000/svg", "")), path.name
        assert len(text.splitlines()) <= _MOST_LINES, path.name


def test_the_plan_is_told_as_caravan_plan_tells_it(raw: httpx.Client) -> None:
    (plan,) = raw.get("/plan").json()["plans"]
    assert [stage["worker"] for stage in plan["stages"]] == ["local-1", "local-2"]
    assert plan["stages"][-1]["layer_end"] == plan["n_layer"]
    assert f"{plan['n_layer']} layers" in plan["text"]
