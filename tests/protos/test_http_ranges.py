# SPDX-License-Identifier: MIT
"""The rules of reading a file in ranges, on answers as servers give them. Over sockets they are tried with the two that
keep to them: tests/coordinator/weights and tests/worker/weights.
"""

import httpx2
import pytest

from protos.http_ranges import KnownFile, WrongAnswerError, check_answer, conditions, follow

_FILE = KnownFile("the model", 1000, '"v1"')
_RIGHT = {"Content-Range": "bytes 10-19/1000", "ETag": '"v1"'}


def test_a_range_is_asked_for_of_the_same_file_only() -> None:
    assert conditions(range(10, 20), '"v1"') == {"Range": "bytes=10-19", "If-Range": '"v1"'}
    # A weak tag may stay when bytes change, so that a server must not compare it.
    assert conditions(range(10, 20), 'W/"v1"') == {"Range": "bytes=10-19"}


def test_an_answer_with_what_was_asked_for_is_right() -> None:
    check_answer(206, _RIGHT, range(10, 20), _FILE)
    check_answer(206, {**_RIGHT, "Content-Range": "bytes 10-14/*"}, range(10, 20), _FILE)


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (200, {}, "changed on its server, or cannot be read from there any more"),
        (416, {}, "cannot be read from there any more"),
        (206, {"Content-Range": "bytes 11-19/1000"}, "other bytes than it was asked for"),
        (206, {"Content-Range": "bytes 10-20/1000"}, "other bytes than it was asked for"),
        (206, {"Content-Range": "bytes 10-19"}, "other bytes than it was asked for"),
        (206, {"Content-Encoding": "gzip"}, "other bytes than it was asked for"),
        (206, {"Content-Range": "bytes 10-19/1001"}, "the model changed on its server"),
        (206, {"ETag": '"v2"'}, "the model changed on its server"),
    ],
)
def test_any_other_answer_is_none(status: int, headers: dict[str, str], reason: str) -> None:
    with pytest.raises(WrongAnswerError, match=reason):
        check_answer(status, {**_RIGHT, **headers}, range(10, 20), _FILE)


def _led(targets: list[str]) -> tuple[list[str], int]:
    """Where redirects lead, one after the other, from https://hub/ on: who was asked, and the last status."""
    asked: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        left = targets[len(asked) - 1 :]
        return httpx2.Response(302, headers={"Location": left[0]}) if left else httpx2.Response(206)

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        response = follow(client, "https://hub/file", lambda _: {}, "the model")
        response.close()
        return asked, response.status_code


def test_redirects_are_followed_to_a_limit_and_never_out_of_https() -> None:
    assert _led(["/moved", "https://store/blob"]) == (
        ["https://hub/file", "https://hub/moved", "https://store/blob"],
        206,
    )
    with pytest.raises(WrongAnswerError, match="redirects from https to http: that is unsafe"):
        _led(["http://store/blob"])
    with pytest.raises(WrongAnswerError, match="redirects more than 5 times"):
        _led([f"/{number}" for number in range(6)])
    assert _led([f"/{number}" for number in range(5)])[1] == 206
