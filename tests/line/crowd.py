# SPDX-License-Identifier: MIT
"""A crowd of HTTP clients that ask for streams, and do what clients do: read, read slowly, stop reading for a while,
leave in the middle, leave before there is anything, or give the server little time.
"""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Any

from coordinator import Token, TopLogprob
from native import Vocabulary
from tests.line.reference import Reference

_BEGINNINGS = ("Once upon a time there was a llama.", "One day the little fox", "The lantern was lost, and")
_STORY = "She walked to the river and sang a little song. The moon was high. " * 12
"""Before some prompts: several chunks, and for others to go on from."""

_RECEIVE_BUFFER_BYTES = 4096
"""Of clients that read slowly: what the kernel holds for them does not hide it."""


@contextlib.contextmanager
def beside(work: Callable[[], None], end: threading.Event) -> Iterator[None]:
    """While this lasts `work` runs in a thread, which is over soon after `end` is set."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class Conduct(Enum):
    """What a client does with its stream."""

    READ = auto()
    READ_SLOWLY = auto()
    STOP_READING = auto()
    LEAVE = auto()
    LEAVE_EARLY = auto()
    HURRY = auto()


_CONDUCTS = (
    *([Conduct.READ] * 10),
    *(each for each in Conduct if each is not Conduct.READ for _ in range(2)),
)
"""So that half of a crowd just reads."""


@dataclass(frozen=True, slots=True)
class Task:
    """What can be asked.

    Attributes:
        expected: Tokens of the greedy answer.
    """

    prompt: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer that is not to the letter what was expected."""

    task: Task
    tokens: tuple[Token, ...]
    n_expected: int


@dataclass(slots=True)
class Crowd:
    """Clients of one server; what came of their requests.

    Attributes:
        token_ids: Of the pieces that tokens have.
        logit_bias: Sent with each request.
        longest_stop_s: For which one does not read.
        outcomes: How requests ended: "whole", "left", "late".
        problems: What should not have been.
    """

    url: str
    tasks: Sequence[Task]
    token_ids: Mapping[bytes, int]
    logit_bias: Mapping[str, object]
    random: Random
    longest_stop_s: float
    n_begun: int = 0
    n_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    conducts: Counter[Conduct] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of_readers(
        cls,
        url: str,
        vocabulary: Vocabulary,
        reference: Reference,
        n_tokens: int,
        random: Random,
        longest_stop_s: float,
    ) -> "Crowd":
        """Those who ask for stories of so many tokens, short prompts and long ones."""
        ends = [token for token in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(token)]
        tasks = []
        for text in [*_BEGINNINGS, *(_STORY + beginning for beginning in _BEGINNINGS)]:
            prompt = tuple(vocabulary.tokenize(text, add_special=True, parse_special=True))
            tasks.append(Task(prompt, tuple(reference.greedy_tokens(prompt, n_tokens, forbidden=ends))))
        pieces = {vocabulary.piece(token): token for token in range(vocabulary.n_tokens) if vocabulary.piece(token)}
        return cls(url, tasks, pieces, {str(token): False for token in ends}, random, longest_stop_s)

    async def ask(self, n_clients: int, duration_s: float) -> None:
        """So many clients, each of which asks again and again for so long, but once at least."""
        ends_s = time.monotonic() + duration_s
        await asyncio.gather(*(self._client(number, ends_s) for number in range(n_clients)))

    async def _client(self, number: int, ends_s: float) -> None:
        while True:
            conduct = _CONDUCTS[(number + self.n_begun) % len(_CONDUCTS)]
            self.n_begun += 1
            self.conducts[conduct] += 1
            try:
                self.outcomes[await self._request(conduct)] += 1
            except Exception as error:
                self.problems.append(f"{conduct.name}: {error!r}")
            if time.monotonic() >= ends_s:
                return

    async def _request(self, conduct: Conduct) -> str:
        task, random = self.random.choice(self.tasks), self.random
        is_slow = conduct in (Conduct.READ_SLOWLY, Conduct.STOP_READING)
        n_most = len(task.expected)
        n_tokens = n_most if is_slow else random.randint(1, n_most // 5)
        body = {
            "prompt": task.prompt,
            "max_tokens": n_tokens,
            "temperature": 0,
            "stream": True,
            "logprobs": 10,
            "logit_bias": self.logit_bias,
            "priority": random.choice((0, 0, 0, 1)),
        }
        if conduct is Conduct.HURRY:
            body["timeout"] = random.uniform(0.05, 5.0)
        n_read = random.randint(0, n_tokens) if conduct is Conduct.LEAVE else n_tokens + 1
        tokens: list[Token] = []
        async with _events(self.url, body, is_slow=is_slow) as events:
            if conduct is Conduct.LEAVE_EARLY:
                await asyncio.sleep(random.uniform(0, 0.3))
                return "left"
            pause_at = random.randint(0, n_tokens // 4)
            async for event in events:
                if event == "[DONE]":
                    return self._whole(task, tokens, n_tokens)
                answer = json.loads(event)
                if "error" in answer:
                    if conduct is not Conduct.HURRY or answer["error"]["code"] != "timeout":
                        raise AssertionError(answer["error"]["message"])
                    self._compare(task, tokens, len(tokens))
                    return "late"
                tokens += self._tokens_of(answer)
                if len(tokens) >= n_read:
                    self._compare(task, tokens, len(tokens))
                    return "left"
                if conduct is Conduct.READ_SLOWLY:
                    await asyncio.sleep(random.uniform(0, self.longest_stop_s / 100))
                elif conduct is Conduct.STOP_READING and pause_at <= len(tokens):
                    pause_at = n_tokens + 1
                    await asyncio.sleep(random.uniform(0, self.longest_stop_s))
        raise AssertionError(f"a stream ended after {len(tokens)} tokens without a word")

    def _whole(self, task: Task, tokens: list[Token], n_tokens: int) -> str:
        self._compare(task, tokens, n_tokens)
        return "whole"

    def _compare(self, task: Task, tokens: list[Token], n_expected: int) -> None:
        self.n_tokens += len(tokens)
        if tuple(token.id for token in tokens) != task.expected[:n_expected]:
            self.differences.append(Difference(task, tuple(tokens), n_expected))

    def _tokens_of(self, answer: Mapping[str, Any]) -> list[Token]:
        (choice,) = answer["choices"]
        logprobs = choice["logprobs"]
        if logprobs is None:
            return []
        return [
            Token(
                self.token_ids[text.encode()],
                text,
                top_logprobs=tuple(
                    TopLogprob(self.token_ids[other.encode()], logprob, other.encode())
                    for other, logprob in top.items()
                    if other.encode() in self.token_ids
                ),
            )
            for text, top in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True)
        ]


@contextlib.asynccontextmanager
async def _events(url: str, body: Mapping[str, object], *, is_slow: bool) -> AsyncIterator[AsyncIterator[str]]:
    """The events of a streamed completion, taken from the socket as they are asked for; a refusal is one event."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    if is_slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 14)
    try:
        content = json.dumps(body).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        await writer.drain()
        yield _lines(reader)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Whatever else the lines are: framing of chunks and headers."""
    while line := await reader.readline():
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode().strip()
        elif line.startswith(b'{"error"'):
            yield line.decode()
