# SPDX-License-Identifier: MIT
"""What models write beside text: thoughts and calls of tools, each family in a form of its own.

Follow a chat through: `layout` (the prompt by the model's template, the grammar of the answer, its format) → the line →
`parser` (the answer as it comes: text, thoughts, calls). A format, of `formats`, is both: the grammar of what may be
written, and the reading of what was. `registry` knows a model's by its template. Pure.

Sources: the templates of the models; what is told apart, and under which names, is llama-server's and OpenAI's.
"""

from coordinator.chat_output.deltas import (
    Call,
    CallArguments,
    CallBegun,
    Content,
    Delta,
    Message,
    Reasoning,
    message_of,
)
from coordinator.chat_output.formats.base import Reading
from coordinator.chat_output.layout import ChatMessage, GoingOn, Layout, lay_out
from coordinator.chat_output.parser import OutputParser, parse
from coordinator.chat_output.tools import Calls, Tool, Wish

__all__ = [
    "Call",
    "CallArguments",
    "CallBegun",
    "Calls",
    "ChatMessage",
    "Content",
    "Delta",
    "GoingOn",
    "Layout",
    "Message",
    "OutputParser",
    "Reading",
    "Reasoning",
    "Tool",
    "Wish",
    "lay_out",
    "message_of",
    "parse",
]
