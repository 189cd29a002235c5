# SPDX-License-Identifier: MIT
"""Reading a request's body: bounded in size, JSON by declaration, valid by its schema.

Called by the routes on the server's event loop. FastAPI's own body reading is not used: it has no size limit
on the versions we allow, and its JSON reader lets lone surrogates through, which no tokenizer takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.refused import OWN_SENTENCE
from coordinator.http.schemas.sampling import RequestModel

MAX_BODY_BYTES = 8 * 1024 * 1024
"""A context of a million tokens is about 4 MiB of text."""
_MAX_DISCARDED_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is read and dropped: who still sends would not see our answer."""

_BODY_S = 120.0
"""For all of a body: the largest one over 1 Mbit/s takes 67 s."""

Model = TypeVar("Model", bound=RequestModel)


async def read_body(request: Request, model: type[Model]) -> Model:
    """The request's body as a `model`.

    Raises:
        RejectedError: 415 not declared as JSON, 413 too large, 408 too slow, 400 not JSON or not valid.
    """
    _check_content_type(request.headers.get("content-type", ""))
    try:
        raw = await asyncio.wait_for(_read_bounded(request), _BODY_S)
    except asyncio.TimeoutError:
        message = f"the request's body did not come within {_BODY_S:.0f} s: send it faster, or a shorter one"
        raise RejectedError(HTTPStatus.REQUEST_TIMEOUT, message, code="request_timeout") from None
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> RejectedError:
    """The refusal of a body: the first thing wrong, as one sentence that names the field."""
    first: Mapping[str, Any] = error.errors(include_url=False, include_input=False)[0]
    context = first.get("ctx", {})
    param = str(context.get("param", ".".join(str(part) for part in first["loc"]))) or None
    message = str(first["msg"]).strip()
    if first["type"] == "json_invalid":
        return RejectedError(HTTPStatus.BAD_REQUEST, f"the body is not valid JSON: {context.get('error', message)}")
    if first["type"] == "missing":
        message = "is missing"
    if first["type"] != OWN_SENTENCE:
        message = f"{param or 'the request'}: {message[:1].lower()}{message[1:]}"
    return RejectedError(HTTPStatus.BAD_REQUEST, message, param=param, code="invalid_request")


def _check_content_type(declared: str) -> None:
    """Web pages of other origins can send us forms and plain text unasked, but not JSON."""
    kind = declared.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise RejectedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with the header Content-Type: application/json"
        )


async def _read_bounded(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = declared.isdigit() and int(declared) > MAX_BODY_BYTES
    raw = bytearray()
    n_discarded_bytes = 0
    async for chunk in request.stream():
        too_large = too_large or len(raw) + len(chunk) > MAX_BODY_BYTES
        if not too_large:
            raw += chunk
            continue
        raw.clear()
        n_discarded_bytes += len(chunk)
        if n_discarded_bytes > _MAX_DISCARDED_BYTES:
            break
    if too_large:
        limit = f"{MAX_BODY_BYTES >> 20} MiB"
        raise RejectedError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than {limit}: send a shorter one"
        )
    return bytes(raw)
