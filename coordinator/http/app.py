# SPDX-License-Identifier: MIT
"""The application: routes, and what becomes of every error. Built by `server`, runs on its event loop.

One request: `body` reads and checks it, `translate` turns it into sampling parameters, the mesh begins a
generation for each answer, then `streaming` or `collecting` tells the tokens in the form of `forms`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from coordinator.admission import RequestOptions
from coordinator.errors import CaravanError
from coordinator.generation import AsyncGeneration
from coordinator.http.access import Access
from coordinator.http.answers import About, Answers, KeptAnswer, seen_of
from coordinator.http.body import read_body
from coordinator.http.clients import client_of
from coordinator.http.collecting import ClientGoneError, collect, until_begun
from coordinator.http.errors import error_response
from coordinator.http.forms import heading
from coordinator.http.host_check import HostCheck
from coordinator.http.key_check import IS_KNOWN, KEY, KeyCheck
from coordinator.http.line_status import is_asked, line_status, window_of
from coordinator.http.openapi import document
from coordinator.http.page_files import PageFiles
from coordinator.http.rejection import RejectedError
from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.completions import CompletionRequest, Prompt
from coordinator.http.schemas.sampling import SamplingFields
from coordinator.http.schemas.status import ModelList
from coordinator.http.service import Service, ServicePhase
from coordinator.http.streaming import EventStream, events_of
from coordinator.http.translate import messages_of, options_of, options_of_choice, sampling_of
from coordinator.json_schema import grammar_of
from coordinator.mesh import AsyncMesh
from coordinator.plan_data import plan_as_data
from native import Vocabulary, versions

_NOBODY_LISTENS = 499
"""Status of an answer that no one will read; nginx's number for it."""


def create_app(service: Service, access: Access) -> FastAPI:
    """OpenAI's API over `service`.

    Args:
        service: what is served, may still be loading.
        access: who may ask.
    """
    # Without the pages that show it: they fetch their scripts from elsewhere.
    app = FastAPI(title="Caravan", docs_url=None, redoc_url=None)
    app.openapi = functools.partial(document, app)  # type: ignore[method-assign]
    # The last one is the first that a request meets.
    app.add_middleware(KeyCheck, keys=access.keys)
    app.add_middleware(PageFiles)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=access.origins, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    app.add_middleware(HostCheck, allowed_names=access.names, is_local=access.is_local)
    app.add_exception_handler(Exception, _answer_unexpected)
    for kind in (CaravanError, RejectedError, HTTPException, ClientGoneError):
        app.add_exception_handler(kind, _answer_error)
    _add_status_routes(app, service)
    _add_generation_routes(app, service)
    _add_kept_answers(app, service)
    return app


def _add_status_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health(request: Request) -> Response:
        status = HTTPStatus.OK if service.phase is ServicePhase.READY else HTTPStatus.SERVICE_UNAVAILABLE
        if not request.scope[IS_KNOWN]:
            return JSONResponse({"status": service.phase.value}, status)
        return _json(service.health(), status, exclude_none=True)

    @app.get("/line")
    async def line(request: Request) -> Response:
        window_s, mesh = window_of(request.query_params.get("window_s")), service.mesh()
        workers = service.workers.look(mesh) if is_asked(request.query_params.get("devices")) else {}
        events = tuple(service.events)
        return _json(await asyncio.to_thread(line_status, service.name, mesh, window_s, events, workers))

    @app.get("/plan")
    async def plan() -> Response:
        plans = service.mesh().plans
        return JSONResponse({"plans": [plan_as_data(each) | {"text": each.explain()} for each in plans]})

    @app.get("/v1/models")
    async def models() -> Response:
        return _json(ModelList(data=[service.model_info()]))

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        if model != service.name:
            message = f"there is no model {model[:200]!r} here, only {service.name!r}"
            raise RejectedError(HTTPStatus.NOT_FOUND, message, param="model", code="model_not_found")
        return _json(service.model_info())


def _add_generation_routes(app: FastAPI, service: Service) -> None:
    # One at a time: they take a processor.
    converting = asyncio.Semaphore(1)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await read_body(request, ChatRequest)
        grammar = await _schema_grammar(service, asked, converting)
        mesh = service.mesh()
        generations = _begin_chat(mesh, asked, client_of(request), grammar)
        about = About(
            "chatcmpl",
            heading("chatcmpl", service.name, versions().llama_cpp),
            bool(asked.logprobs),
            asked.n_choices,
            asked.include_usage,
        )
        return await _answer(request, service.answers, about, generations, is_stream=bool(asked.stream))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await read_body(request, CompletionRequest)
        grammar = await _schema_grammar(service, asked, converting)
        mesh = service.mesh()
        echoes = _echoes(mesh.vocabulary, asked)
        generations = _begin_completions(mesh, asked, client_of(request), grammar)
        about = About(
            "cmpl",
            heading("cmpl", service.name, versions().llama_cpp),
            asked.logprobs is not None,
            asked.n_choices,
            asked.include_usage,
            echoes,
        )
        return await _answer(request, service.answers, about, generations, is_stream=bool(asked.stream))


def _add_kept_answers(app: FastAPI, service: Service) -> None:
    async def again(request: Request, kind: str, answer_id: str) -> Response:
        service.mesh()
        if service.answers is None:
            message = "answers are not kept here: start caravan serve with --journal auto"
            raise RejectedError(HTTPStatus.NOT_FOUND, message, code="no_journal")
        query = request.query_params
        answer = service.answers.find(kind, answer_id, service.answers.owner_of(request.scope[KEY]))
        try:
            after = query.get("starting_after") or request.headers.get("last-event-id")
            seen = seen_of(after, len(answer.generations))
        except BaseException:
            service.answers.leave(answer)
            raise
        return await _tell(request, service.answers, answer, seen, is_stream=query.get("stream") in ("true", "1"))

    @app.get("/v1/chat/completions/{answer_id}")
    async def chat_again(request: Request, answer_id: str) -> Response:
        return await again(request, "chatcmpl", answer_id)

    @app.get("/v1/completions/{answer_id}")
    async def completion_again(request: Request, answer_id: str) -> Response:
        return await again(request, "cmpl", answer_id)


async def _schema_grammar(service: Service, asked: SamplingFields, converting: asyncio.Semaphore) -> str:
    """The grammar of the JSON schema that the answer must be valid by, made in a thread; empty if there is none."""
    if asked.wanted_schema is None:
        return ""
    service.mesh()
    async with converting:
        return await asyncio.to_thread(grammar_of, asked.wanted_schema)


def _begin_chat(mesh: AsyncMesh, asked: ChatRequest, client: str, grammar: str) -> list[AsyncGeneration]:
    n_top_logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    sampling = sampling_of(asked, n_top_logprobs=n_top_logprobs, grammar=grammar)
    messages, variables, options = messages_of(asked), asked.chat_template_kwargs, options_of(asked, sampling, client)
    with _all_or_none() as generations:
        generations.append(mesh.chat(messages, template_variables=variables, **options))
        _begin_other_choices(mesh, asked, options, generations)
    return generations


def _begin_completions(mesh: AsyncMesh, asked: CompletionRequest, client: str, grammar: str) -> list[AsyncGeneration]:
    sampling = sampling_of(asked, n_top_logprobs=asked.logprobs, grammar=grammar)
    options = options_of(asked, sampling, client)
    with _all_or_none() as generations:
        for prompt in asked.prompt:
            generations.append(mesh.generate(prompt, **options))
            _begin_other_choices(mesh, asked, options, generations)
    return generations


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


async def _answer(
    request: Request,
    answers: Answers | None,
    about: About,
    generations: Sequence[AsyncGeneration],
    *,
    is_stream: bool,
) -> Response:
    if answers is not None:
        owned = replace(about, owner=answers.owner_of(request.scope[KEY]))
        answer = await answers.keep(owned, generations)
        return await _tell(request, answers, answer, [0] * len(generations), is_stream=is_stream)
    if is_stream:
        await until_begun(request, generations)
        events = events_of(about.form(), generations, about.n_choices, include_usage=about.include_usage)
        return EventStream(events, generations)
    return _json(await collect(request, about.form(), generations, about.n_choices))


async def _tell(
    request: Request, answers: Answers, answer: KeptAnswer, seen: Sequence[int], *, is_stream: bool
) -> Response:
    """An answer that is kept, to one reader, who leaves it at the end."""
    about, generations = answer.about, answer.reread()
    try:
        if not is_stream:
            whole = await collect(request, about.form(), generations, about.n_choices)
            answers.leave(answer)
            return _json(whole)
        await until_begun(request, generations)
    except BaseException:
        answers.leave(answer)
        raise
    events = events_of(about.form(), generations, about.n_choices, include_usage=about.include_usage, seen=seen)
    return EventStream(events, generations, lambda: answers.leave(answer))


def _echoes(vocabulary: Vocabulary, asked: CompletionRequest) -> list[str]:
    """What stands before each answer: its prompt if `echo` asks for that."""
    if asked.echo and asked.logprobs is not None:
        message = "log probabilities of the prompt are not supported: leave out `echo` or `logprobs`"
        raise RejectedError(HTTPStatus.BAD_REQUEST, message, param="echo", code="invalid_request")
    return [
        _prompt_text(vocabulary, prompt) if asked.echo else ""
        for prompt in asked.prompt
        for _ in range(asked.n_choices)
    ]


def _prompt_text(vocabulary: Vocabulary, prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    known = (token for token in prompt if token < vocabulary.n_tokens)
    return b"".join(vocabulary.piece(token) for token in known).decode("utf-8", "replace")


def _json(body: BaseModel, status: int = HTTPStatus.OK, *, exclude_none: bool = False) -> Response:
    text = body.model_dump_json(exclude_none=exclude_none)
    return Response(text.encode(), status, media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ClientGoneError):
        return Response(status_code=_NOBODY_LISTENS)
    if isinstance(error, HTTPException):
        error = _as_rejected(request, error)
    return error_response(error)


async def _answer_unexpected(_request: Request, error: Exception) -> Response:
    """Starlette raises it again after this, so that the server logs it with its traceback."""
    return error_response(error)


def _as_rejected(request: Request, error: HTTPException) -> RejectedError:
    """Starlette's own refusals: no such route, or another method."""
    asked = f"{request.method} {request.url.path[:200]}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is no {asked} here: see docs/http.md for the routes"
    else:
        message = f"{asked} cannot be done: {error.detail}"
    return RejectedError(HTTPStatus(error.status_code), message, code="no_such_route")
