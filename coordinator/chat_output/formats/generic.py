# SPDX-License-Identifier: MIT
"""For models whose template knows nothing of tools, or writes calls in a form of its own that is not read here: they
are told of tools by a message of ours, in the form that most models have seen, that of Hermes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.chat_output.formats.hermes import CLOSER, Hermes


class Generic(Hermes):
    """Any model."""

    name = "generic"
    is_own = False

    def is_of(self, template: str) -> bool:
        del template
        return True

    def as_text(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages without tools in them: calls, and what they gave, are text."""
        out: list[dict[str, Any]] = []
        for message in messages:
            if message["role"] == "tool":
                text = f"<tool_response>\n{message['content']}\n</tool_response>"
                if out and out[-1]["role"] == "user" and out[-1]["content"].endswith("</tool_response>"):
                    out[-1]["content"] += "\n" + text
                else:
                    out.append({"role": "user", "content": text})
                continue
            plain = {name: value for name, value in message.items() if name != "tool_calls"}
            calls = [self._call_as_text(call) for call in message.get("tool_calls", ())]
            plain["content"] = "\n".join([text for text in (plain["content"], *calls) if text])
            out.append(plain)
        return out

    def _call_as_text(self, call: Mapping[str, Any]) -> str:
        function = call["function"]
        told = {"name": function["name"], "arguments": function["arguments"]}
        return f"{self.opener}\n{json.dumps(told, ensure_ascii=False)}\n{CLOSER}"
