# SPDX-License-Identifier: MIT
"""What a session counts of a request."""

import asyncio

from coordinator.generation import TokenStream
from coordinator.running import RunningRequest
from coordinator.text import TextStream


def _request() -> RunningRequest:
    return RunningRequest(TokenStream((1,), signal=asyncio.Event()), TextStream(), submitted_s=0.0)


def test_lines_that_break_without_a_token_in_between_are_counted_and_those_at_links_apart() -> None:
    request = _request()
    for is_of_link in (True, False, True):
        request.note_break(is_of_link=is_of_link)
    assert (request.n_breaks, request.n_link_breaks) == (1, 2)
    request.n_tokens = 1
    request.note_break(is_of_link=False)
    assert (request.n_breaks, request.n_link_breaks) == (1, 0)
