# SPDX-License-Identifier: MIT
"""The last of what a process wrote to stderr, within bounds and fit to be shown to people elsewhere: without control
characters, and without what looks like a secret. Pure.

Our logs hold no secrets that we know of; a library's might.
"""

import re
from collections import deque

# Some KiB: an assertion, and what was said before it.
MAX_TAIL_CHARACTERS = 3000
_MAX_LINE_CHARACTERS = 500
_MAX_LINES = 60
_LEFT_OUT = "[...]"

# Escape sequences of terminals (ECMA-48): debuggers print in colours.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_SECRETS = re.compile(
    "|".join(
        (
            r"\b(?:[0-9A-Za-z]{4}-){6}[0-9A-Za-z]{4}\b",  # a join code
            r"\bcaravan-[0-9A-Za-z_-]{30,}",  # an API key
            r"\bhf_[0-9A-Za-z]{16,}",  # Hugging Face's tokens
            r"(?<=Bearer )\S+",
        )
    )
)
# With a user, a password, a query: it may be signed.
_ADDRESS = re.compile(r"(https?://)(?:[^\s/@]+@)?([^\s?\"'<>]*)(\?[^\s\"'<>]*)?")
# ggml_abort() prints file, line and reason, and then has a debugger print every stack, if there is one. What ends C++
# by an exception that nobody catches says so in two lines.
_REASON = re.compile(
    r"^\S+\.(?:c|cc|cpp|cu|cuh|h|hpp|m|metal)[:(]\d+\)?: "
    r"|GGML_ASSERT\(|^terminate called |^\s+what\(\): |^Fatal Python error"
)
_FRAME_OF_STACK = re.compile(
    r"^(?:#\d+\s|\[(?:New LWP|Thread debugging|Inferior|Detaching)|0x[0-9a-f]+ in |\s*\S+\(\+0x)"
)
# It is the debugger's, also where it quotes the reason.
_OF_DEBUGGER = re.compile(r"^(?:#\d+\s|\s+frame #\d+)")


class LogTail:
    """Of one process: what it said last, and the last reason for an end among all that it said."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_MAX_LINES)
        self._reason = ""

    def add(self, line: bytes) -> None:
        """The next line."""
        text = line[: 2 * _MAX_LINE_CHARACTERS].decode("utf-8", "replace").rstrip()[:_MAX_LINE_CHARACTERS]
        self._lines.append(text)
        if _is_reason(text):
            self._reason = text

    def text(self) -> str:
        """What can be told of it; the reason is there, however much followed."""
        kept: deque[str] = deque()
        n_left = MAX_TAIL_CHARACTERS - len(self._reason) - len(_LEFT_OUT) - 2
        for line in map(clean_line, reversed(self._lines)):
            n_left -= len(line) + 1
            if n_left < 0:
                break
            kept.appendleft(line)
        reason = clean_line(self._reason)
        if reason and reason not in kept:
            kept.extendleft((_LEFT_OUT, reason))
        return "\n".join(kept)


def clean_line(line: str) -> str:
    """One line without what is not to be shown."""
    plain = _ESCAPES.sub("", line).replace("\t", " ")
    shown = "".join(each if each.isprintable() else "?" for each in plain)
    return _SECRETS.sub("[removed]", _ADDRESS.sub(lambda a: a[1] + a[2] + ("?[removed]" if a[3] else ""), shown))


def clean_tail(text: str) -> str:
    """A tail that came from elsewhere, as `LogTail.text` would have given it."""
    lines = text[:MAX_TAIL_CHARACTERS].split("\n")
    return "\n".join(clean_line(line[:_MAX_LINE_CHARACTERS]) for line in lines)


def last_words(tail: str) -> str:
    """The line of a tail that says most about an end: the last that gives a reason, else the last; empty: it said
    nothing."""
    lines = [line.strip() for line in tail.split("\n") if line.strip()]
    reasons = [line for line in tail.split("\n") if _is_reason(line)]
    if reasons:
        return reasons[-1].strip()
    return next((line for line in reversed(lines) if not _FRAME_OF_STACK.match(line)), "")


def _is_reason(line: str) -> bool:
    return _REASON.search(line) is not None and _OF_DEBUGGER.match(line) is None
