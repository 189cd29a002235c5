# SPDX-License-Identifier: MIT
"""The one table from the coordinator's errors to HTTP answers, and OpenAI's form of an error body.

Called by the application's exception handlers, and by streams that fail after they began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response

from coordinator import errors
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.status import ErrorBody, ErrorInfo

RETRY_AFTER_S = 2
"""Told to clients with 429 and with a 503 that may pass: about the time of a long answer's next free slot."""


@dataclass(frozen=True, slots=True)
class HttpMeaning:
    """How a kind of error is told over HTTP: the status, and OpenAI's `type` and `code`."""

    status: HTTPStatus
    type: str
    code: str


_INVALID = "invalid_request_error"
_SERVER = "server_error"
_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE

MEANINGS: Mapping[type[errors.CaravanError], HttpMeaning] = {
    errors.CaravanError: HttpMeaning(HTTPStatus.INTERNAL_SERVER_ERROR, _SERVER, "internal_error"),
    errors.NoWorkersError: HttpMeaning(_UNAVAILABLE, _SERVER, "no_workers"),
    errors.VersionMismatchError: HttpMeaning(_UNAVAILABLE, _SERVER, "version_mismatch"),
    errors.IdentityError: HttpMeaning(_UNAVAILABLE, _SERVER, "no_identity"),
    errors.DuplicateNameError: HttpMeaning(_UNAVAILABLE, _SERVER, "duplicate_name"),
    errors.ModelError: HttpMeaning(_UNAVAILABLE, _SERVER, "model_error"),
    errors.ModelNotFoundError: HttpMeaning(_UNAVAILABLE, _SERVER, "model_file_not_found"),
    errors.SourceError: HttpMeaning(_UNAVAILABLE, _SERVER, "model_source_error"),
    errors.UnsupportedModelError: HttpMeaning(_UNAVAILABLE, _SERVER, "model_not_supported"),
    errors.PlanError: HttpMeaning(_UNAVAILABLE, _SERVER, "no_plan"),
    errors.DoesNotFitError: HttpMeaning(_UNAVAILABLE, _SERVER, "does_not_fit"),
    errors.InventoryError: HttpMeaning(_UNAVAILABLE, _SERVER, "no_plan"),
    errors.WorkerError: HttpMeaning(_UNAVAILABLE, _SERVER, "worker_error"),
    errors.WorkerStartError: HttpMeaning(_UNAVAILABLE, _SERVER, "worker_start_failed"),
    errors.WorkerLostError: HttpMeaning(_UNAVAILABLE, _SERVER, "worker_lost"),
    errors.WorkerSilentError: HttpMeaning(_UNAVAILABLE, _SERVER, "worker_lost"),
    errors.WorkerBusyError: HttpMeaning(_UNAVAILABLE, _SERVER, "worker_busy"),
    errors.WeightsError: HttpMeaning(_UNAVAILABLE, _SERVER, "weights_error"),
    errors.EngineError: HttpMeaning(HTTPStatus.INTERNAL_SERVER_ERROR, _SERVER, "engine_error"),
    errors.FrameRefusedError: HttpMeaning(HTTPStatus.INTERNAL_SERVER_ERROR, _SERVER, "engine_error"),
    errors.PoisonError: HttpMeaning(HTTPStatus.INTERNAL_SERVER_ERROR, _SERVER, "line_broke_repeatedly"),
    errors.SessionLostError: HttpMeaning(_UNAVAILABLE, _SERVER, "line_lost"),
    errors.RequestError: HttpMeaning(HTTPStatus.BAD_REQUEST, _INVALID, "invalid_request"),
    errors.InvalidRequestError: HttpMeaning(HTTPStatus.BAD_REQUEST, _INVALID, "invalid_request"),
    errors.SchemaError: HttpMeaning(HTTPStatus.BAD_REQUEST, _INVALID, "invalid_json_schema"),
    errors.PromptTooLongError: HttpMeaning(HTTPStatus.BAD_REQUEST, _INVALID, "context_length_exceeded"),
    errors.InputTooLongError: HttpMeaning(HTTPStatus.BAD_REQUEST, _INVALID, "context_length_exceeded"),
    errors.NotMadeForError: HttpMeaning(HTTPStatus.BAD_REQUEST, _INVALID, "not_supported"),
    errors.OverloadedError: HttpMeaning(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "overloaded"),
    errors.ClientLimitError: HttpMeaning(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "client_limit"),
    # 504 as with Anthropic, Gemini and Mistral; OpenRouter's 408 invites clients to send it again (RFC 9110, 15.5.9).
    errors.DeadlineError: HttpMeaning(HTTPStatus.GATEWAY_TIMEOUT, "timeout_error", "timeout"),
    errors.SlowReaderError: HttpMeaning(HTTPStatus.GATEWAY_TIMEOUT, "timeout_error", "slow_reader"),
    errors.CancelledError: HttpMeaning(_UNAVAILABLE, _SERVER, "cancelled"),
    errors.UnloadedError: HttpMeaning(_UNAVAILABLE, _SERVER, "model_unloaded"),
    errors.ClosedError: HttpMeaning(_UNAVAILABLE, _SERVER, "closed"),
}

_TYPES_BY_STATUS = {HTTPStatus.NOT_FOUND: "not_found_error", HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error"}
_INTERNAL = "something went wrong inside the coordinator; its log says more"


def meaning_of(error: errors.CaravanError) -> HttpMeaning:
    """The table's entry for the error's own class, else for its nearest ancestor."""
    return next(MEANINGS[kind] for kind in type(error).__mro__ if kind in MEANINGS)


def error_info(error: Exception) -> ErrorInfo:
    """What a client is told of `error`; nothing of errors that nobody meant to raise."""
    if isinstance(error, errors.CaravanError):
        meaning = meaning_of(error)
        return ErrorInfo(message=error.message, type=meaning.type, code=meaning.code)
    if isinstance(error, RejectedError):
        kind = _INVALID if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else _SERVER
        kind = _TYPES_BY_STATUS.get(error.status, kind)
        return ErrorInfo(message=error.message, type=kind, param=error.param, code=error.code)
    return ErrorInfo(message=_INTERNAL, type=_SERVER, code="internal_error")


def error_response(error: Exception) -> Response:
    """The whole answer to a request that failed before its answer began."""
    body = ErrorBody(error=error_info(error)).model_dump_json().encode()
    return Response(body, _status(error), headers=_headers(error), media_type="application/json")


def _status(error: Exception) -> HTTPStatus:
    if isinstance(error, errors.CaravanError):
        return meaning_of(error).status
    if isinstance(error, RejectedError):
        return error.status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, RejectedError) and error.status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, RejectedError):
        return {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, errors.OverloadedError | errors.ClientLimitError):
        return {"Retry-After": str(RETRY_AFTER_S)}
    # OpenAI's clients send anything beyond 499 twice more, unless told not to: its time is over.
    return {"x-should-retry": "false"} if isinstance(error, errors.DeadlineError) else {}
