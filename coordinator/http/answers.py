# SPDX-License-Identifier: MIT
"""Answers that outlive their connections, and this process: kept by id, written to the journal, gone on with when a
coordinator starts where another one died, told again to whom they belong. Used on the server's event loop; without a
journal there is none of this, and an answer ends with its client.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from coordinator.chat_output import Reading
from coordinator.errors import CancelledError, CaravanError, DeadlineError
from coordinator.generation import AsyncGeneration, FinishReason, Rereading, Token, TokenStream, Usage, nothing
from coordinator.http.chat_form import ChatForm
from coordinator.http.forms import CompletionForm, Form, Heading
from coordinator.http.llama_answer import Asked
from coordinator.http.rejection import RejectedError
from coordinator.journal.entries import StoredAnswer, StoredPart
from coordinator.journal.journal import Entry, Journal
from coordinator.mesh import AsyncMesh
from coordinator.text import TextStream

_LOG = logging.getLogger(__name__)

_MOST_BETWEEN_LOOKS_S = 5.0

_MOST_TIMES = 5
"""Coordinators that go on with an answer: it may be what they die of."""


@dataclass(frozen=True, slots=True)
class About:
    """What an answer is told with.

    Attributes:
        kind: "chatcmpl" or "cmpl".
        echoes: Of a completion, as in its form.
        n_choices: Answers to one prompt.
        reading: Of a chat, how its answers are read, as a record; None: they are text.
        owner: A hash of the key of whom it is for; empty: it was asked for without one.
        is_timed: Whether each chunk tells what the answer took until then.
        asked: For `verbose`, of each answer, as a record; empty: it was not asked for.
    """

    kind: str
    heading: Heading
    with_logprobs: bool
    n_choices: int
    include_usage: bool
    echoes: Sequence[str] = ()
    owner: str = ""
    reading: Mapping[str, Any] | None = None
    is_timed: bool = False
    asked: Sequence[Mapping[str, Any]] = ()

    def form(self) -> Form:
        """A fresh one: forms of streams count."""
        asked = [Asked(**each) for each in self.asked]
        if self.kind == "chatcmpl":
            reading = None if self.reading is None else Reading.from_record(self.reading)
            return ChatForm(self.heading, self.with_logprobs, reading, self.is_timed, asked)
        return CompletionForm(self.heading, self.with_logprobs, self.echoes, self.is_timed, asked)

    def as_record(self) -> dict[str, Any]:
        """For the journal."""
        return {name: getattr(self, name) for name in About.__dataclass_fields__}


class KeptAnswer:
    """An answer by itself.

    Args:
        left_s: How long it goes on when nobody reads it, in seconds; 0: it ends at once.

    Attributes:
        is_told: Some client may know its id; nobody comes back for one of which none does.
    """

    def __init__(self, about: About, generations: Sequence[AsyncGeneration], left_s: float) -> None:
        self.about = about
        self.generations = tuple(generations)
        self.left_s = left_s
        self.n_readers = 0
        self.is_told = False
        self.unread_since_s = time.monotonic()
        self.ended_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether all of it has ended."""
        return all(generation.stream.ended for generation in self.generations)

    def reread(self) -> list[Rereading]:
        """All of it from its beginning."""
        return [generation.reread() for generation in self.generations]


class Answers:
    """Those of one server.

    Args:
        keep_s: How long an answer that has ended can be had, and one that was gone on with waits for somebody.
        grace_s: How long one goes on whose connection broke.
    """

    def __init__(self, journal: Journal, keep_s: float, grace_s: float) -> None:
        self._journal = journal
        self._keep_s = keep_s
        self._grace_s = grace_s
        self._kept: dict[str, KeptAnswer] = {}
        self._sweeping: asyncio.Task[None] | None = None

    def owner_of(self, key: str) -> str:
        """What of a key is kept; empty: none is wanted."""
        return (
            hmac.new(self._journal.salt, key.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()
            if key
            else ""
        )

    async def keep(self, about: About, generations: Sequence[AsyncGeneration]) -> KeptAnswer:
        """An answer that has just begun, with one reader; returns when the journal has its beginning."""
        answer = KeptAnswer(about, generations, self._grace_s)
        answer.n_readers = 1
        self._kept[about.heading["id"]] = answer
        now = time.time()
        parts = [
            StoredPart(each.request, None if each.request.timeout_s is None else now + each.request.timeout_s)
            for each in generations
        ]
        stored = StoredAnswer(about.heading["id"], now, about.as_record(), parts)
        try:
            await self._journal.add(Entry(stored, [generation.stream for generation in generations]))
        except BaseException:
            self.leave(answer)
            raise
        return answer

    def find(self, kind: str, answer_id: str, owner: str) -> KeptAnswer:
        """One that this client may have, with one reader more.

        Raises:
            RejectedError: 404; whoever may not have it is not told that it is there.
        """
        answer = self._kept.get(answer_id)
        is_theirs = answer is not None and hmac.compare_digest(answer.about.owner, owner)
        if answer is None or answer.about.kind != kind or not is_theirs:
            message = f"there is no answer {answer_id[:100]!r} here: it was never begun, or nobody came for it in time"
            raise RejectedError(HTTPStatus.NOT_FOUND, message, param="id", code="no_such_answer")
        answer.n_readers += 1
        return answer

    def end(self, kind: str, answer_id: str, owner: str) -> None:
        """Ends one that this client may have, if it has not, and keeps it no more.

        Raises:
            RejectedError: As `find`.
        """
        answer = self.find(kind, answer_id, owner)
        self._drop(answer)
        self.leave(answer)

    def leave(self, answer: KeptAnswer) -> None:
        """A reader is done, or gone."""
        answer.n_readers -= 1
        if answer.n_readers or answer.is_over:
            return
        answer.unread_since_s = time.monotonic()
        if not answer.left_s or not answer.is_told:
            self._drop(answer)
            return
        for generation in answer.generations:
            generation.stream.lift()
        asyncio.get_running_loop().call_later(answer.left_s, self._drop_unread, answer)

    # ---- the coordinator before ----

    def go_on(self, mesh: AsyncMesh, answers: Sequence[StoredAnswer]) -> int:
        """Takes up what another coordinator left, and begins to write; gives the number of answers that go on."""
        now = time.time()
        entries, n_going_on = [], 0
        for stored in sorted(answers, key=lambda answer: answer.at):
            if now - stored.at > self._keep_s:
                continue
            try:
                about = About(**stored.about)
            except TypeError:
                _LOG.warning("answer %s of the journal cannot be told any more", stored.id)
                continue
            stored.n_gone_on += 1
            generations = [_gone_on(mesh, part, now, n_times=stored.n_gone_on) for part in stored.parts]
            answer = self._kept[stored.id] = KeptAnswer(about, generations, self._keep_s)
            answer.is_told = True
            entries.append(Entry(stored, [generation.stream for generation in generations]))
            if answer.is_over:
                answer.ended_s = time.monotonic() - (now - stored.at)
            else:
                n_going_on += 1
                asyncio.get_running_loop().call_later(self._keep_s, self._drop_unread, answer)
        self._journal.start(entries)
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep())
        return n_going_on

    async def close(self) -> None:
        """Ends nothing that runs; the mesh does."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    # ---- what nobody wants any more ----

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(_MOST_BETWEEN_LOOKS_S, self._keep_s / 4 + 0.1))
            now_s = time.monotonic()
            for answer in list(self._kept.values()):
                if answer.ended_s is None and answer.is_over:
                    answer.ended_s = now_s
                if answer.ended_s is not None and now_s - answer.ended_s > self._keep_s and not answer.n_readers:
                    self._drop(answer)

    def _drop_unread(self, answer: KeptAnswer) -> None:
        """Nobody came for it, if that is so."""
        unread_s = time.monotonic() - answer.unread_since_s
        if not answer.n_readers and not answer.is_over and unread_s >= 0.99 * answer.left_s:
            self._drop(answer)

    def _drop(self, answer: KeptAnswer) -> None:
        if self._kept.pop(answer.about.heading["id"], None) is not None:
            for generation in answer.generations:
                generation.cancel()
            self._journal.forget(answer.about.heading["id"])


def seen_of(after: str | None, n_parts: int) -> list[int]:
    """The events that a client has seen, of each part, by the id of the last one; none without.

    Raises:
        RejectedError: 400, it is no such id.
    """
    if not after:
        return [0] * n_parts
    counts = after.split(",")
    if len(counts) != n_parts or not all(count.isascii() and count.isdecimal() and len(count) < 10 for count in counts):
        shape = "a number" if n_parts == 1 else f"{n_parts} numbers with commas between them"
        message = f"{after[:100]!r} is no id of an event of this answer: it is {shape}, as the stream had it"
        raise RejectedError(HTTPStatus.BAD_REQUEST, message, param="starting_after", code="invalid_request")
    return [int(count) for count in counts]


def _gone_on(mesh: AsyncMesh, part: StoredPart, now: float, *, n_times: int) -> AsyncGeneration:
    """The part as its generation was, which goes on if it had not ended."""
    if part.end is not None:
        return _ended(part, part.tokens, part.end.reason, part.end.error, part.end.usage)
    tokens = _without_end(mesh, part.tokens)
    usage = Usage(len(part.request.prompt), len(tokens))
    finish = _finish_of(part, tokens)
    if finish is not None:
        return _ended(part, tokens, finish, None, usage)
    request, left_s = part.request, None if part.deadline is None else part.deadline - now
    if left_s is not None and left_s <= 0:
        return _ended(part, tokens, None, DeadlineError(request.timeout_s or 0.0, len(tokens)), usage)
    if n_times > _MOST_TIMES:
        error = CancelledError(f"the server died {n_times} times while it answered this, so it does not try again")
        return _ended(part, tokens, None, error, usage)
    try:
        return mesh.go_on(replace(request, timeout_s=left_s), tokens)
    except CaravanError as error:
        return _ended(part, tokens, None, error, usage)


def _without_end(mesh: AsyncMesh, tokens: Sequence[Token]) -> Sequence[Token]:
    """An end that came and was not noted comes again."""
    if tokens and mesh.vocabulary.is_end_of_generation(tokens[-1].id):
        return tokens[:-1]
    return tokens


def _finish_of(part: StoredPart, tokens: Sequence[Token]) -> FinishReason | None:
    """Why it had ended, where only that was not noted any more."""
    text = TextStream(part.request.stop)
    if any(text.push(token.piece).stopped for token in tokens):
        return FinishReason.STOP
    return FinishReason.LENGTH if len(tokens) >= part.request.max_tokens else None


def _ended(
    part: StoredPart,
    tokens: Sequence[Token],
    reason: FinishReason | None,
    error: CaravanError | None,
    usage: Usage,
) -> AsyncGeneration:
    arrived = asyncio.Event()
    stream = TokenStream(part.request.prompt, arrived)
    stream.tokens += tokens
    if error is not None:
        stream.fail(error, usage)
    else:
        stream.finish(reason or FinishReason.CANCELLED, usage)
    return AsyncGeneration(stream, nothing, arrived, part.request)
