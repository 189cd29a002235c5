# SPDX-License-Identifier: MIT
"""From a request that was read to generations that run: laid out, held by a grammar, handed to the mesh. Used by the
routes, on the server's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.admission import RequestOptions
from coordinator.chat_output import Layout, Reading, lay_out
from coordinator.generation import AsyncGeneration
from coordinator.http.llama_answer import Asked
from coordinator.http.llama_settings import settings_of_request
from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.completions import CompletionRequest
from coordinator.http.schemas.llama_completion import LlamaCompletionRequest
from coordinator.http.schemas.sampling import SamplingFields
from coordinator.http.translate import (
    logit_bias_of,
    messages_of,
    options_of,
    options_of_choice,
    sampling_of,
    template_variables_of,
    wish_of,
)
from coordinator.json_schema import grammar_of
from coordinator.mesh import AsyncMesh


@dataclass(frozen=True, slots=True)
class BegunChat:
    """A chat that is under way.

    Attributes:
        reading: How its answers are read; None: they are text.
    """

    generations: list[AsyncGeneration]
    reading: Reading | None


class Beginning:
    """Begins the requests of one server. Grammars are made in a thread, one at a time: they take a processor.

    Args:
        tells_thoughts_apart: as `Service` has it.
    """

    def __init__(self, *, tells_thoughts_apart: bool) -> None:
        self._tells_thoughts_apart = tells_thoughts_apart
        self._converting = asyncio.Semaphore(1)

    async def chat(self, mesh_of: Callable[[], AsyncMesh], asked: ChatRequest, client: str) -> BegunChat:
        """Begins every answer to a chat.

        Args:
            mesh_of: gives the mesh as it is then.

        Raises:
            CaravanError, RejectedError: it cannot be served as asked; none was begun.
        """
        layout = await self._lay_out(mesh_of(), asked)
        mesh = mesh_of()
        n_top_logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        sampling = sampling_of(
            asked,
            n_top_logprobs=n_top_logprobs,
            logit_bias=logit_bias_of(asked, mesh),
            grammar=layout.grammar,
            visible=mesh.special_tokens(layout.special),
        )
        options = options_of(asked, sampling, client)
        with _all_or_none() as generations:
            generations.append(mesh.generate(mesh.prompt_tokens(mesh.raw_prompt(layout.prompt)), **options))
            _begin_other_choices(mesh, asked, options, generations)
        return BegunChat(generations, layout.reading)

    async def completions(
        self,
        mesh_of: Callable[[], AsyncMesh],
        asked: CompletionRequest | LlamaCompletionRequest,
        n_top_logprobs: int | None,
        client: str,
    ) -> list[AsyncGeneration]:
        """Begins every completion of every prompt; otherwise as `chat`."""
        mesh_of()
        grammar = ""
        if asked.wanted_schema is not None:
            async with self._converting:
                grammar = await asyncio.to_thread(grammar_of, asked.wanted_schema)
        mesh = mesh_of()
        bias = logit_bias_of(asked, mesh)
        sampling = sampling_of(asked, n_top_logprobs=n_top_logprobs, logit_bias=bias, grammar=grammar)
        options = options_of(asked, sampling, client)
        with _all_or_none() as generations:
            for prompt in asked.prompt:
                generations.append(mesh.generate(prompt, **options))
                _begin_other_choices(mesh, asked, options, generations)
        return generations

    async def prompt(self, mesh: AsyncMesh, asked: ChatRequest) -> str:
        """The raw prompt that `chat` would have answered.

        Raises:
            CaravanError, RejectedError: As `chat`.
        """
        return mesh.raw_prompt((await self._lay_out(mesh, asked)).prompt)

    async def _lay_out(self, mesh: AsyncMesh, asked: ChatRequest) -> Layout:
        template, wish = mesh.chat_template, wish_of(asked, tells_thoughts_apart=self._tells_thoughts_apart)
        messages, variables = messages_of(asked), template_variables_of(asked)
        arguments = (template, messages, wish, variables, asked.going_on)
        if not wish.tools and wish.schema is None:
            return lay_out(*arguments)
        async with self._converting:
            return await asyncio.to_thread(lay_out, *arguments)


async def asked_of(mesh: AsyncMesh, asked: SamplingFields, generations: Sequence[AsyncGeneration]) -> list[Asked]:
    """What llama-server's own form tells again of the request that these answer."""
    prompts = {generation.prompt_tokens for generation in generations}
    texts = await asyncio.to_thread(lambda: {tokens: b"".join(mesh.pieces(tokens)) for tokens in prompts})
    return [
        Asked(
            prompt=texts[generation.prompt_tokens].decode("utf-8", "replace"),
            n_prompt=len(generation.prompt_tokens),
            settings=settings_of_request(asked, generation.request.sampling),
            stop=generation.request.stop,
            n_ctx=mesh.n_ctx,
            is_one_line=len(mesh.plans) == 1,
        )
        for generation in generations
    ]


async def verbose_of(
    mesh_of: Callable[[], AsyncMesh], asked: SamplingFields, generations: Sequence[AsyncGeneration]
) -> list[dict[str, Any]]:
    """The same as records, if the request is verbose; else none."""
    return [each.as_record() for each in await asked_of(mesh_of(), asked, generations)] if asked.verbose else []


def _begin_other_choices(
    mesh: AsyncMesh, asked: SamplingFields, options: RequestOptions, generations: list[AsyncGeneration]
) -> None:
    """Further answers to the prompt of the last generation, from its tokens: it is not tokenized again."""
    tokens = generations[-1].prompt_tokens
    for choice in range(1, asked.n_choices):
        own = options_of_choice(options, choice)
        generations.append(mesh.generate(tokens, **own))


@contextlib.contextmanager
def _all_or_none() -> Iterator[list[AsyncGeneration]]:
    """A list for generations; if one cannot begin, those that did are cancelled."""
    generations: list[AsyncGeneration] = []
    try:
        yield generations
    except BaseException:
        for generation in generations:
            generation.cancel()
        raise
