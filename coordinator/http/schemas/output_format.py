# SPDX-License-Identifier: MIT
"""What form the answer must have: OpenAI's `response_format`, llama-server's `json_schema` and `grammar`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from coordinator.http.schemas.refused import refusal
from coordinator.json_schema import ANY_OBJECT

_KINDS = ("text", "json_object", "json_schema")


def _as_kind(value: object) -> object:
    if value not in _KINDS:
        raise refusal("the type of a response_format is text, json_object or json_schema")
    return value


class NamedSchema(BaseModel):
    """OpenAI's `json_schema` within `response_format`; `name` and `description` are for people, and all are strict."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str | None = Field(None, max_length=1024)
    description: str | None = None
    # An own name: `schema` is one of pydantic's.
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")
    strict: bool | None = None


class OutputFormat(BaseModel):
    """OpenAI's `response_format`; the schema may also be in `schema`, as llama-server's users write it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Annotated[Literal["text", "json_object", "json_schema"], BeforeValidator(_as_kind)]
    json_schema: NamedSchema | None = None
    schema_: dict[str, Any] | bool | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _has_schema(self) -> OutputFormat:
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise refusal("a response_format of type json_schema needs the schema in `json_schema`", "response_format")
        return self

    @property
    def wanted(self) -> dict[str, Any] | bool | None:
        """The schema of the answer; None: any text."""
        if self.type == "text":
            return None
        told = self.schema_ if self.json_schema is None else self.json_schema.schema_
        # An empty one stands for any object, as with llama-server.
        return dict(ANY_OBJECT) if told is None or told == {} else told
