# SPDX-License-Identifier: MIT
"""What a model is told of tools whose template does not tell it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.chat_output.tools import Tool

_TEXT = """You may call functions to answer. These are there, each as JSON with a schema of its arguments:
<tools>
{tools}
</tools>
To call one, write its NAME and its ARGUMENTS as JSON, just so, and nothing after it:
{example}
You are told then what it gives back."""


def with_instructions(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], example: str
) -> list[Mapping[str, Any]]:
    """The messages with what is to be known of the tools, at the end of the system's message, or before all others.

    Args:
        example: how a call is written.
    """
    told = "\n".join(json.dumps(tool.as_told()["function"], ensure_ascii=False) for tool in tools)
    text = _TEXT.format(tools=told, example=example)
    if messages and messages[0]["role"] == "system":
        first, *others = messages
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *others]
    return [{"role": "system", "content": text}, *messages]
