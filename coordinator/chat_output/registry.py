# SPDX-License-Identifier: MIT
"""All formats, and which one a model writes: told by its template."""

from __future__ import annotations

from coordinator.chat_output.formats.base import ChatFormat
from coordinator.chat_output.formats.command_r7b import CommandR7B
from coordinator.chat_output.formats.deepseek import DeepSeekR1, DeepSeekV31
from coordinator.chat_output.formats.functionary import FunctionaryV31, FunctionaryV32
from coordinator.chat_output.formats.generic import Generic
from coordinator.chat_output.formats.gpt_oss import GptOss
from coordinator.chat_output.formats.hermes import Hermes
from coordinator.chat_output.formats.llama3 import Llama3
from coordinator.chat_output.formats.mistral import MistralArray, MistralNamed
from coordinator.chat_output.formats.qwen3_coder import Qwen3Coder

GENERIC = Generic()

FORMATS: tuple[ChatFormat, ...] = (
    GptOss(),
    FunctionaryV32(),
    CommandR7B(),
    DeepSeekR1(),
    DeepSeekV31(),
    MistralNamed(),
    MistralArray(),
    Qwen3Coder(),
    FunctionaryV31(),
    Hermes(),
    Llama3(),
    GENERIC,
)
"""The first that knows the template is the model's; the last one takes any."""

_THOUGHT_TAGS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
)


def format_of(template: str) -> ChatFormat:
    """The format of a model with this template."""
    return next(each for each in FORMATS if each.is_of(template))


def format_named(name: str) -> ChatFormat:
    """The format of that name."""
    return next(each for each in FORMATS if each.name == name)


def thought_tags_of(template: str) -> tuple[str, str] | None:
    """What a model with this template writes its thoughts between; None: nothing."""
    return next((tags for tags in _THOUGHT_TAGS if tags[1] in template), None)
