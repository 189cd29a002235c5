# SPDX-License-Identifier: MIT
"""The table from errors to HTTP answers: whole, and telling no more than it should."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coordinator import errors
from coordinator.http.errors import MEANINGS, error_info, error_response, meaning_of
from native import LayerRange


def _tree(root: type[errors.CaravanError]) -> Iterator[type[errors.CaravanError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _tree(kind)


def test_every_error_of_the_coordinator_is_in_the_table() -> None:
    own = {kind for kind in _tree(errors.CaravanError) if kind.__module__ == errors.__name__}
    assert own == set(MEANINGS)


def test_every_code_names_one_kind_of_trouble() -> None:
    kinds = {meaning.code: meaning.status for meaning in MEANINGS.values()}
    assert all(meaning.status == kinds[meaning.code] for meaning in MEANINGS.values())


def test_an_error_of_a_kind_that_is_not_in_the_table_takes_its_ancestors_meaning() -> None:
    class NewRequestError(errors.RequestError):
        """Added one day."""

    assert meaning_of(NewRequestError("no")) == MEANINGS[errors.RequestError]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.PromptTooLongError(900, 512), 400, "context_length_exceeded"),
        (errors.OverloadedError(7), 429, "overloaded"),
        (errors.ClientLimitError(3), 429, "client_limit"),
        (errors.DeadlineError(2.5, 7), 504, "timeout"),
        (
            errors.WorkerLostError("attic is gone", worker="attic", layers=LayerRange(0, 4)),
            503,
            "worker_lost",
        ),
        (errors.EngineError("llama.cpp failed", worker="attic"), 500, "engine_error"),
    ],
)
def test_an_error_is_told_in_openais_form(error: errors.CaravanError, status: int, code: str) -> None:
    response = error_response(error)
    info = error_info(error)
    assert response.status_code == status
    assert (info.message, info.code) == (str(error), code)
    assert ("retry-after" in response.headers) == (status == 429)


def test_an_error_that_nobody_meant_to_raise_tells_nothing_of_itself() -> None:
    response = error_response(ValueError("a secret path"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
