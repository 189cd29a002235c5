# SPDX-License-Identifier: MIT
"""Tools in a request: what there is, which may or must be called, and which were called before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from coordinator.chat_output import Calls
from coordinator.http.schemas.refused import refusal

MAX_TOOLS = 128

ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.:/-]+$")]


class _Field(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def as_parameters(value: object) -> object:
    """A schema of an object; without any, of one that is empty."""
    if value is None:
        return {"type": "object", "properties": {}}
    if isinstance(value, dict) and value.get("type", "object") != "object":
        raise refusal("the parameters of a tool are a JSON schema of type object")
    return {**value, "type": "object"} if isinstance(value, dict) else value


Parameters = Annotated[dict[str, Any], BeforeValidator(as_parameters)]


class FunctionField(_Field):
    """A function of the client's."""

    name: ToolName
    description: str | None = None
    parameters: Parameters = Field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


def as_tool_type(value: object) -> object:
    """Refuses what is done by OpenAI's own servers."""
    if value != "function":
        raise refusal("only tools of type function can be called: the others are OpenAI's own")
    return value


ToolType = Annotated[Literal["function"], BeforeValidator(as_tool_type)]


class ToolField(_Field):
    """A tool; functions are the only kind."""

    type: ToolType
    function: FunctionField


def _as_arguments(value: object) -> object:
    """The object that a call's arguments are the text of."""
    if value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise refusal("the arguments of a tool call are a JSON object, as text")
    return value


Arguments = Annotated[dict[str, Any], BeforeValidator(_as_arguments)]


class CalledFunction(_Field):
    """What an earlier answer called."""

    name: ToolName
    arguments: Arguments


class ToolCallField(_Field):
    """A call in an earlier answer."""

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class ToolChoice(_Field):
    """Whether tools are called.

    `names` are those that may be; None: all.
    """

    calls: Calls
    names: tuple[str, ...] | None = None
    is_one: bool = False
    """It is one function by its name."""


def as_tool_choice(value: object) -> ToolChoice | None:
    """OpenAI's four forms as one: a word, a function, or a list of those that are allowed; None: it is not said."""
    if value is None or isinstance(value, ToolChoice):
        return value
    if isinstance(value, str) and value in ("none", "auto", "required"):
        return ToolChoice(calls=Calls(value))
    if isinstance(value, Mapping) and value.get("type") == "function":
        return ToolChoice(calls=Calls.REQUIRED, names=(_name_in(value),), is_one=True)
    if isinstance(value, Mapping) and value.get("type") == "allowed_tools":
        allowed = value.get("allowed_tools", value)
        mode, tools = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, Mapping) else (None, None)
        if mode in ("auto", "required") and isinstance(tools, list) and tools:
            return ToolChoice(calls=Calls(mode), names=tuple(_name_in(tool) for tool in tools))
        raise refusal("allowed_tools has a mode, auto or required, and a list of tools")
    raise refusal("tool_choice is none, auto, required, a function by its name, or allowed_tools")


def _name_in(value: object) -> str:
    """The name of a function, as chat completions (in `function`) or responses (beside the type) write it."""
    if isinstance(value, Mapping) and value.get("type") == "function":
        function = value.get("function", value)
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str):
            return name
    raise refusal('tool_choice names functions as {"type": "function", "function": {"name": ...}}')
