# SPDX-License-Identifier: MIT
"""What an answer is made of, as it comes: text for people, reasoning, calls of tools. Pure data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the thoughts before it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of a tool begins; calls are counted from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, which are a JSON object when they are whole."""

    index: int
    text: str


Delta = Content | Reasoning | CallBegun | CallArguments


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """A whole answer."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[Call, ...] = ()


def joined(deltas: Sequence[Delta]) -> list[Delta]:
    """The same with neighbours of one kind as one."""
    out: list[Delta] = []
    for delta in deltas:
        last = out[-1] if out else None
        if isinstance(delta, Content) and isinstance(last, Content):
            out[-1] = Content(last.text + delta.text)
        elif isinstance(delta, Reasoning) and isinstance(last, Reasoning):
            out[-1] = Reasoning(last.text + delta.text)
        elif isinstance(delta, CallArguments) and isinstance(last, CallArguments) and last.index == delta.index:
            out[-1] = CallArguments(last.index, last.text + delta.text)
        else:
            out.append(delta)
    return out


def message_of(deltas: Iterable[Delta]) -> Message:
    """All of them as one message."""
    content: list[str] = []
    reasoning: list[str] = []
    calls: list[Call] = []
    for delta in joined(list(deltas)):
        if isinstance(delta, Content):
            content.append(delta.text)
        elif isinstance(delta, Reasoning):
            reasoning.append(delta.text)
        elif isinstance(delta, CallBegun):
            calls.append(Call(delta.id, delta.name, ""))
        else:
            calls[delta.index] = replace(calls[delta.index], arguments=calls[delta.index].arguments + delta.text)
    return Message("".join(content), "".join(reasoning), tuple(calls))
