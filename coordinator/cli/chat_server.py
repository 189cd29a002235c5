# SPDX-License-Identifier: MIT
"""A server with OpenAI's API that answers in a chat: `caravan serve`, or any other. On the main thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coordinator.admission import RANDOM_SEED
from coordinator.cli.chat_partner import Ended
from coordinator.cli.chat_screen import Screen
from coordinator.cli.exits import StartError, UserError
from coordinator.cli.line import speed_text
from coordinator.cli.options import SamplingOptions
from coordinator.cli.progress import layers_text
from coordinator.generation import Usage
from coordinator.http.chat_client import ChatClient, ChatStream, ServerError
from coordinator.http.line_client import LineClient, NoLineError
from coordinator.http.schemas.line import LineInfo
from coordinator.http.server_address import ServerAddress
from coordinator.plan import columns
from coordinator.waterfall import LEAST_WINDOW_S, WINDOW_S
from native import SamplingParams

_SENT = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty",
         "repeat_last_n", "grammar")  # fmt: skip
"""By llama-server's names, of which OpenAI's API has some; seed, stop and max_tokens are sent beside them."""


class ServerPartner:
    """The server's model that was asked for, or its first.

    Raises:
        StartError: Nobody answers there, or it names no model.
        UserError: It has no such model.
    """

    def __init__(self, address: ServerAddress, model: str | None, screen: Screen) -> None:
        self._address = address
        self._client = ChatClient(address)
        self._line = LineClient(address)
        self.screen = screen
        try:
            models = self._client.models()
        except ServerError as error:
            raise StartError(f"{address.url} {error}") from None
        if not models:
            raise StartError(f"{address.url} has no model")
        self._model = models[0] if model is None else _one_of(models, model, address)
        screen.tell(f"{self._model} on {address.url}", style="dim")

    @property
    def name(self) -> str:
        """The model's, as the server has it."""
        return self._model

    def reply(self, messages: Sequence[Mapping[str, str]], sampling: SamplingOptions) -> ServerReply:
        """An answer by the server."""
        return ServerReply(self._client.stream(self._model, messages, _fields(sampling)), self)

    def change_model(self, model: str) -> None:
        """Another one of the server's."""
        self._model = _one_of(self._models(), model, self._address)

    def about(self) -> str:
        """Which models there are, and of a Caravan which worker has which layers."""
        others = [model for model in self._models() if model != self._model]
        lines = [f"{self._model} on {self._address.url}", *(f"  /model {model}" for model in others)]
        stages = [stage for line in self.lines(WINDOW_S) for stage in line.stages]
        if stages:
            rows = [(stage.worker, layers_text(stage.layer_start, stage.layer_end), stage.device) for stage in stages]
            lines += ["  " + row for row in columns(rows)]
        return "\n".join(lines)

    def close(self) -> None:
        """There is nothing to end."""

    def lines(self, window_s: float) -> list[LineInfo]:
        """What a Caravan's lines have done in the last seconds; of another server there are none."""
        try:
            status = self._line.ask(max(window_s, LEAST_WINDOW_S))
        except NoLineError:
            return []
        return status.lines

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What the server does not do, as a UserError: the next thing that it is asked may go well."""
        try:
            yield
        except ServerError as error:
            raise UserError(f"{self._address.url} {error}") from None

    def _models(self) -> list[str]:
        with self.told():
            return self._client.models()


class ServerReply:
    """An answer that the server streams."""

    def __init__(self, stream: ChatStream, partner: ServerPartner) -> None:
        self._stream = stream
        self._partner = partner
        self._finish_reason: str | None = None
        self._counts: Mapping[str, Any] | None = None
        self._n_deltas = 0
        self._started_s = self._first_s = self._last_s = 0.0

    def cancel(self) -> None:
        """As a Reply does it."""
        self._stream.cancel()

    def __enter__(self) -> Iterator[str]:
        self._started_s = self._first_s = self._last_s = time.monotonic()
        with self._partner.told():
            self._stream.begin()
        return self._texts()

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def ended(self) -> Ended:
        """By the server's counts and this machine's clock; of a Caravan, what limited the speed of its lines, too."""
        details = [line.limit.sentence for line in self._partner.lines(time.monotonic() - self._started_s)]
        speed = "the server tells no counts of tokens"
        if self._counts is not None:
            cached = (self._counts.get("prompt_tokens_details") or {}).get("cached_tokens")
            details = [f"{cached} of the prompt tokens were in the cache"] * (cached is not None) + details
            speed = speed_text(
                Usage(
                    int(self._counts["prompt_tokens"]),
                    int(self._counts["completion_tokens"]),
                    prefill_s=self._first_s - self._started_s,
                    decode_s=self._last_s - self._first_s,
                )
            )
        return Ended(self._stream.is_cancelled, self._finish_reason == "length", speed, tuple(details))

    def _texts(self) -> Iterator[str]:
        with self._partner.told():
            for delta in self._stream:
                if delta.text or delta.thought:
                    self._last_s = time.monotonic()
                    self._n_deltas += 1
                    if self._n_deltas == 1:
                        self._first_s = self._last_s
                self._finish_reason = delta.finish_reason or self._finish_reason
                self._counts = delta.usage or self._counts
                self._partner.screen.think(delta.thought)
                if delta.text:
                    yield delta.text


def _one_of(models: Sequence[str], model: str, address: ServerAddress) -> str:
    if model not in models:
        raise UserError(f"{address.url} has no model {model}; it has {', '.join(models)}")
    return model


def _fields(sampling: SamplingOptions) -> dict[str, object]:
    """What is not llama-server's default: another server has defaults of its own, and may know OpenAI's names only."""
    params, defaults = sampling.params, SamplingParams()
    fields = {name: getattr(params, name) for name in _SENT if getattr(params, name) != getattr(defaults, name)}
    if params.seed != RANDOM_SEED:
        fields["seed"] = params.seed
    if sampling.max_tokens is not None:
        fields["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields
