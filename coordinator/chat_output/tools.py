# SPDX-License-Identifier: MIT
"""What a client asks of an answer: the tools that may or must be called, the schema of its text. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of the client's.

    Attributes:
        parameters: JSON schema of its arguments, an object.
        strict: Whether a format in which not all of that can be held is refused.
        place: Of the parameters in the request, for sentences.
    """

    name: str
    parameters: Mapping[str, Any]
    description: str = ""
    strict: bool = False
    place: str = ""

    def as_told(self) -> dict[str, Any]:
        """As templates take it: OpenAI's form."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


class Calls(str, Enum):
    """Whether tools are called."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class Wish:
    """What an answer is to be.

    Attributes:
        tools: All that the model is told of.
        calls: Whether it calls any.
        callable: Names of those that it may call; None: all.
        parallel: Whether it may call more than one in an answer.
        schema: What its text must be valid by; None: it is any text.
        is_held: Whether a grammar of ours holds it; False: the client sent one of its own.
        reasoning_apart: Whether thoughts are told apart from the text.
    """

    tools: tuple[Tool, ...] = ()
    calls: Calls = Calls.AUTO
    callable: frozenset[str] | None = None
    parallel: bool = True
    schema: Mapping[str, Any] | bool | None = None
    is_held: bool = True
    reasoning_apart: bool = True

    @property
    def callables(self) -> tuple[Tool, ...]:
        """The tools that it may call."""
        if self.calls is Calls.NONE:
            return ()
        return tuple(tool for tool in self.tools if self.callable is None or tool.name in self.callable)

    @property
    def must_call(self) -> bool:
        """Whether it calls a tool in any case."""
        return self.calls is Calls.REQUIRED and bool(self.callables)
