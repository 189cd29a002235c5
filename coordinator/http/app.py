# SPDX-License-Identifier: MIT
"""The application: routes, and what becomes of every error. Built by `server`, runs on its event loop.

One request: `body` reads and checks it, `beginning` lays it out and has the mesh begin a generation for each answer,
then `streaming` or `collecting` tells the tokens in the form of `forms`.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from coordinator.errors import CaravanError
from coordinator.generation import AsyncGeneration
from coordinator.http.access import Access
from coordinator.http.aliases import Aliases
from coordinator.http.answer_counts import AnswerCounts
from coordinator.http.answers import About, Answers, KeptAnswer, seen_of
from coordinator.http.beginning import Beginning, verbose_of
from coordinator.http.body import read_body
from coordinator.http.clients import client_of
from coordinator.http.collecting import ClientGoneError, collect, until_begun, while_connected
from coordinator.http.embedding import answer_of, check_pools, embed
from coordinator.http.errors import error_response
from coordinator.http.forms import heading
from coordinator.http.host_check import HostCheck
from coordinator.http.key_check import IS_KNOWN, KEY, KeyCheck
from coordinator.http.line_status import is_asked, line_status, window_of
from coordinator.http.llama_completions import add_llama_completion_routes
from coordinator.http.llama_embeddings import add_llama_embedding_routes, llama_response
from coordinator.http.llama_server import add_llama_server_routes
from coordinator.http.openapi import document
from coordinator.http.page_files import PageFiles
from coordinator.http.rejection import RejectedError
from coordinator.http.reports import health_of, model_info
from coordinator.http.reranking import add_rerank_routes
from coordinator.http.responding import chat_of, respond, telling_of
from coordinator.http.schemas.chat import ChatRequest
from coordinator.http.schemas.completions import CompletionRequest, Prompt
from coordinator.http.schemas.embeddings import EmbeddingsRequest
from coordinator.http.schemas.llama_server import ModelRequest, Success
from coordinator.http.schemas.response_request import ResponseRequest
from coordinator.http.schemas.status import DeletedAnswer, ModelList
from coordinator.http.service import Service, ServicePhase
from coordinator.http.streaming import EventStream, events_of, written_response
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
    app.add_middleware(Aliases)
    app.add_middleware(PageFiles)
    if access.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=access.origins, allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
        )
    app.add_middleware(HostCheck, allowed_names=access.names, is_local=access.is_local)
    app.add_middleware(AnswerCounts, counts=service.answer_counts)
    app.add_exception_handler(Exception, _answer_unexpected)
    for kind in (CaravanError, RejectedError, HTTPException, ClientGoneError):
        app.add_exception_handler(kind, _answer_error)
    beginning = Beginning(tells_thoughts_apart=service.tells_thoughts_apart)
    _add_status_routes(app, service)
    _add_generation_routes(app, service, beginning)
    _add_kept_answers(app, service)
    add_llama_server_routes(app, service, beginning)
    add_llama_completion_routes(app, service, beginning)
    add_llama_embedding_routes(app, service)
    add_rerank_routes(app, service)
    return app


def _add_status_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health(request: Request) -> Response:
        status = HTTPStatus.OK if service.phase is ServicePhase.READY else HTTPStatus.SERVICE_UNAVAILABLE
        if not request.scope[IS_KNOWN]:
            return JSONResponse({"status": service.phase.value}, status)
        return _json(health_of(service), status, exclude_none=True)

    @app.get("/line")
    async def line(request: Request) -> Response:
        query = request.query_params
        window_s, model = window_of(query.get("window_s")), service.name_of(query.get("model"))
        mesh = service.mesh(model)
        workers = service.workers[model].look(mesh) if is_asked(query.get("devices")) else {}
        events = tuple(service.chronicle.events)
        return _json(await asyncio.to_thread(line_status, model, mesh, window_s, events, workers))

    @app.get("/plan")
    async def plan(request: Request) -> Response:
        plans = service.mesh(request.query_params.get("model")).plans
        return JSONResponse({"plans": [plan_as_data(each) | {"text": each.explain()} for each in plans]})

    @app.get("/v1/models")
    async def models() -> Response:
        data = [model_info(service, name) for name in service.catalogue.names]
        return _json(ModelList(data=data), exclude_none=True)

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        return _json(model_info(service, service.known(model)), exclude_none=True)

    async def order(request: Request, what: Callable[[str], None]) -> Success:
        asked = await read_body(request, ModelRequest)
        service.check_serving()
        what(service.known(asked.model))
        return Success()

    @app.post("/v1/models/load")
    async def load(request: Request) -> Success:
        return await order(request, service.catalogue.load)

    @app.post("/v1/models/unload")
    async def unload(request: Request) -> Success:
        return await order(request, service.catalogue.unload)


def _add_generation_routes(app: FastAPI, service: Service, beginning: Beginning) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await read_body(request, ChatRequest)
        async with service.served(request, asked) as served:
            begun = await beginning.chat(served.mesh, served.within_time(asked), client_of(request))
            verbose = await verbose_of(served.mesh, asked, begun.generations)
        about = About(
            "chatcmpl",
            heading("chatcmpl", served.name, versions().llama_cpp),
            bool(asked.logprobs),
            asked.n_choices,
            asked.include_usage,
            reading=None if begun.reading is None else begun.reading.as_record(),
            is_timed=bool(asked.timings_per_token),
            asked=verbose,
        )
        return await _answer(request, service.answers, about, begun.generations, is_stream=bool(asked.stream))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        asked = await read_body(request, CompletionRequest)
        async with service.served(request, asked) as served:
            asked = served.within_time(asked)
            echoes = _echoes(served.mesh().vocabulary, asked)
            generations = await beginning.completions(served.mesh, asked, asked.logprobs, client_of(request))
            verbose = await verbose_of(served.mesh, asked, generations)
        about = About(
            "cmpl",
            heading("cmpl", served.name, versions().llama_cpp),
            asked.logprobs is not None,
            asked.n_choices,
            asked.include_usage,
            echoes,
            is_timed=bool(asked.timings_per_token),
            asked=verbose,
        )
        return await _answer(request, service.answers, about, generations, is_stream=bool(asked.stream))

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        asked = await read_body(request, EmbeddingsRequest)
        async with service.served(request, asked) as served:
            mesh = served.mesh()
            if asked.input is not None:
                check_pools(mesh)
            made = await while_connected(request, embed(mesh, served.within_time(asked), client_of(request)))
        if asked.input is None:
            return await llama_response(made)
        body = await asyncio.to_thread(answer_of, made, asked, served.name)
        return Response(body, media_type="application/json")

    @app.post("/v1/responses")
    async def responses(request: Request) -> Response:
        asked = await read_body(request, ResponseRequest)
        chat = chat_of(asked)
        async with service.served(request, chat) as served:
            begun = await beginning.chat(served.mesh, served.within_time(chat), client_of(request))
        telling = telling_of(asked, served.name, begun, is_timed=bool(chat.timings_per_token))
        return await respond(request, telling, begun.generations[0], is_stream=bool(asked.stream))


def _add_kept_answers(app: FastAPI, service: Service) -> None:
    def kept() -> Answers:
        service.check_serving()
        if service.answers is None:
            message = "answers are not kept here: start caravan serve with --journal auto"
            raise RejectedError(HTTPStatus.NOT_FOUND, message, code="no_journal")
        return service.answers

    async def again(request: Request, kind: str, answer_id: str) -> Response:
        answers, query = kept(), request.query_params
        answer = answers.find(kind, answer_id, answers.owner_of(request.scope[KEY]))
        try:
            after = query.get("starting_after") or request.headers.get("last-event-id")
            seen = seen_of(after, len(answer.generations))
        except BaseException:
            answers.leave(answer)
            raise
        return await _tell(request, answers, answer, seen, is_stream=query.get("stream") in ("true", "1"))

    def end(request: Request, kind: str, answer_id: str) -> DeletedAnswer:
        answers = kept()
        answers.end(kind, answer_id, answers.owner_of(request.scope[KEY]))
        is_chat = kind == "chatcmpl"
        return DeletedAnswer(id=answer_id, object="chat.completion.deleted" if is_chat else "text_completion.deleted")

    @app.get("/v1/chat/completions/{answer_id}")
    async def chat_again(request: Request, answer_id: str) -> Response:
        return await again(request, "chatcmpl", answer_id)

    @app.get("/v1/completions/{answer_id}")
    async def completion_again(request: Request, answer_id: str) -> Response:
        return await again(request, "cmpl", answer_id)

    @app.delete("/v1/chat/completions/{answer_id}")
    async def end_chat(request: Request, answer_id: str) -> DeletedAnswer:
        return end(request, "chatcmpl", answer_id)

    @app.delete("/v1/completions/{answer_id}")
    async def end_completion(request: Request, answer_id: str) -> DeletedAnswer:
        return end(request, "cmpl", answer_id)


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
    return written_response(await collect(request, about.form(), generations, about.n_choices))


async def _tell(
    request: Request, answers: Answers, answer: KeptAnswer, seen: Sequence[int], *, is_stream: bool
) -> Response:
    """An answer that is kept, to one reader, who leaves it at the end."""
    about, generations = answer.about, answer.reread()
    try:
        if not is_stream:
            whole = await collect(request, about.form(), generations, about.n_choices)
            answers.leave(answer)
            return written_response(whole)
        await until_begun(request, generations)
        answer.is_told = True
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
    n_tokens = vocabulary.n_tokens
    pieces = (
        part.encode() if isinstance(part, str) else vocabulary.piece(part) if part < n_tokens else b""
        for part in prompt
    )
    return b"".join(pieces).decode("utf-8", "replace")


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
