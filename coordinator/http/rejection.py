# SPDX-License-Identifier: MIT
"""A request that is turned away at the HTTP edge, before the mesh hears of it."""

from __future__ import annotations

from http import HTTPStatus


class RejectedError(Exception):
    """Ends a request with a status and a sentence; `errors` gives it its body.

    Args:
        status: of the answer.
        message: one sentence with what to do.
        param: the request's field that is meant, as a path with dots.
        code: a word for programs.
        retry_after_s: when trying again may help.
    """

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s
