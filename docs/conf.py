# SPDX-License-Identifier: MIT
"""How scripts/build_docs makes a site of these pages: Sphinx, with MyST for Markdown. The pages themselves know nothing
of it, so that they read the same where a repository is browsed."""

import re

from sphinx.application import Sphinx

project = "Caravan"
author = copyright = "Caravan contributors"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "pydata_sphinx_theme"
html_title = "Caravan"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False, "navbar_center": []}
html_sidebars = {"**": ["globaltoc.html"]}
html_show_sourcelink = html_copy_source = False
# How headings nest is a page's own affair; broken links are what is looked for.
suppress_warnings = ["myst.header"]
# A block without a language is output, or a drawing.
highlight_language = "none"

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")
_SECTION = re.compile(r"^## (.+)\n\n((?:- \[.*\n)+)", re.M)
_PAGE = re.compile(r"\(([\w-]+)\.md\)")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _prepare)


def _prepare(_app: Sphinx, page: str, source: list[str]) -> None:
    """Links to what is not in the site become text; the lists of the index become the site's contents."""
    text = _OUTSIDE.sub(r"\1", source[0])
    for section in _SECTION.finditer(text) if page == "index" else ():
        pages = "\n".join(_PAGE.findall(section[2]))
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {section[1]}\n{pages}\n```\n"
    source[0] = text
