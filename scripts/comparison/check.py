# SPDX-License-Identifier: MIT
"""A check: what a test of llama.cpp's asks a server, as facts that two servers can be compared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from comparison.peer import MISSING, NOT_SUPPORTED, Peer

Facts = Mapping[str, Any]


class Verdict(str, Enum):
    """How the servers compare."""

    SAME = "same"
    ON_PURPOSE = "different on purpose"
    MISSING = "missing"
    DIFFERENT = "DIFFERENT"
    """And nobody says why: a fault of ours, or a check without its reason."""


@dataclass(frozen=True, slots=True)
class Check:
    """One.

    Attributes:
        tests: Names of llama.cpp's tests, with their file: those whose checks these are.
        route: That is meant.
        what: Is checked.
        ask: Asks a server, and gives the facts.
        reason: Why ours may differ; empty: it may not. With `is_missing`: what there is in its place.
        is_missing: What it is about is not there, which shows otherwise by a route that is not.
    """

    tests: tuple[str, ...]
    route: str
    what: str
    ask: Callable[[Peer], Facts]
    reason: str = ""
    is_missing: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check; `differing` are the facts that are not the same, theirs and ours."""

    check: Check
    verdict: Verdict
    differing: Mapping[str, tuple[object, object]]


def compare(check: Check, theirs: Peer, ours: Peer) -> Result:
    """Asks both."""
    facts = []
    for peer in (theirs, ours):
        peer.forget()
        facts.append(_asked(check, peer))
    names = dict.fromkeys([*facts[0], *facts[1]])
    differing = {
        name: (facts[0].get(name), facts[1].get(name)) for name in names if facts[0].get(name) != facts[1].get(name)
    }
    return Result(check, _verdict(check, bool(differing), ours), differing)


def _asked(check: Check, peer: Peer) -> Facts:
    """The facts; where the answer has not the form that the check reads, that is the fact."""
    try:
        return check.ask(peer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return {"the answer's form": f"{type(error).__name__}: {error}", "statuses": tuple(peer.statuses)}


def _verdict(check: Check, is_different: bool, ours: Peer) -> Verdict:
    if not is_different:
        return Verdict.SAME
    if check.is_missing or {MISSING, NOT_SUPPORTED} & set(ours.statuses):
        return Verdict.MISSING
    return Verdict.ON_PURPOSE if check.reason else Verdict.DIFFERENT
