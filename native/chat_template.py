# SPDX-License-Identifier: MIT
"""The chat template a GGUF carries: Jinja, run in a sandbox because it comes with the download."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from native.errors import ChatTemplateError


def _raise(message: str) -> NoReturn:
    raise ChatTemplateError(f"the model's chat template refuses these messages: {message}")


def _now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=_as_list)


def _as_list(value: object) -> list[object]:
    """What `map` and the like give is a list to those who write templates."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


class _Generation(Extension):
    """`{% generation %}` marks what an assistant said, for those who train models; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A parsed template. Rendering is thread-safe.

    The environment is the one templates are written for (Hugging Face transformers' documentation of chat templates):
    trimmed blocks, loop controls, `raise_exception`, `strftime_now`, `tojson` without HTML escapes.
    """

    def __init__(self, source: str, *, bos: str, eos: str) -> None:
        """Parses it.

        Raises:
            ChatTemplateError: it does not parse.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation], autoescape=False
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        self.source = source
        self._variables = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the model's chat template does not parse: {error}") from error

    def render(
        self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool = True, **variables: object
    ) -> str:
        """The prompt for these messages, special tokens written out (tokenise with parse_special, not add_special).

        Args:
            messages: each with "role" and "content", and what else the template reads.
            add_generation_prompt: end with the opening of the assistant's turn.
            variables: further variables of the template (tools, enable_thinking, ...).

        Raises:
            ChatTemplateError: the template refused them or failed.
        """
        try:
            return self._template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **self._variables, **variables
            )
        except ChatTemplateError:
            raise
        except Exception as error:  # a template is a program from a download: it may fail in any way
            raise ChatTemplateError(f"the model's chat template failed: {type(error).__name__}: {error}") from error
