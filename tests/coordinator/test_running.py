# SPDX-License-Identifier: MIT
"""What a session counts of a request, and what of that its reader is told while it runs."""

import asyncio

from coordinator.admission import AdmittedRequest
from coordinator.frames import Outcome, Request, SampledRow
from coordinator.generation import AsyncGeneration, TokenStream, nothing
from coordinator.requests import Requests
from coordinator.running import RunningRequest
from coordinator.scheduler import Scheduler
from coordinator.sequence import Limits
from coordinator.tally import Tally
from coordinator.text import TextStream
from native import SamplingParams

_LIMITS = Limits(n_slots=2, n_batch=4, n_ctx=64, n_stages=2, n_waiting=3)


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


def test_who_wants_to_know_is_told_how_far_its_prompt_is_once_each_time() -> None:
    scheduler = Scheduler(_LIMITS, [0])
    for number in (1, 2):
        prompt = tuple(range(10 * number, 10 * number + 6))
        scheduler.submit(Request(number, prompt, 8, SamplingParams(), tells_progress=number == 1))
    known = []
    while (frame := scheduler.next_frame()) is not None:
        scheduler.result(frame.number, [SampledRow(frame.seq_ids[row], 7) for row in frame.outputs])
        known += [(each.request_id, each.n_tokens) for each in scheduler.take_prefilled()]
        if frame.is_decode:
            break
    assert known == [(1, 4), (1, 6)]


async def test_what_a_request_took_and_how_far_its_prompt_is_can_be_had_while_it_runs() -> None:
    scheduler, arrived = Scheduler(_LIMITS, [0]), asyncio.Event()
    requests = Requests(scheduler, lambda token, special=False: b"a", lambda: None, Tally())
    request = AdmittedRequest(tuple(range(10, 16)), 8, (), SamplingParams(), tells_progress=True)
    number, stream = requests.submit(request, arrived)
    generation = AsyncGeneration(stream, nothing, arrived, request)
    while (frame := scheduler.next_frame()) is not None and not frame.is_decode:
        requests.note_starts(frame)
        outcomes = scheduler.result(frame.number, [SampledRow(frame.seq_ids[row], 7) for row in frame.outputs])
        requests.note_prefilled(scheduler.take_prefilled())
        requests.deliver(outcomes)
    assert [each.done_tokens async for each in generation.prompt_progress()] == [0, 4, 6]
    assert (stream.slot, generation.usage.completion_tokens, generation.usage.decode_s) == (0, 1, 0)
    requests.deliver([Outcome(number, SampledRow(0, 7), was_guessed=True, n_drafted=3)])
    usage = generation.usage
    assert (usage.completion_tokens, usage.guessed_tokens, usage.drafted_tokens) == (2, 1, 3)
    assert generation.usage == usage
    requests.cancel(number)
    assert generation.usage.completion_tokens == 2
