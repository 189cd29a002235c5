# SPDX-License-Identifier: MIT
"""The public face: a model laid over workers, as an object. `AsyncMesh` lives on the event loop that opened it; `Mesh`
is the same object driven on an event loop in a thread of its own, for programs without one. Who opens a mesh closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

from coordinator.admission import AdmittedRequest, RequestOptions
from coordinator.embeddings import (
    AdmittedEmbedding,
    EmbeddingOptions,
    Embeddings,
    Inputs,
    Ranking,
    RankingOptions,
    ranking_of,
)
from coordinator.event_feed import AsyncLineEvents, EventFeed, LineEvents
from coordinator.events import OnLineEvent, OnProgress, ignore
from coordinator.generation import AsyncGeneration, Generation, Signal, Token, TokenStream
from coordinator.line_face import LineFace
from coordinator.loop_thread import LoopThread, ThreadSignal
from coordinator.opening import OpenMesh, open_mesh
from coordinator.options import MeshOptions
from coordinator.prompts import Messages
from coordinator.search import Objective
from coordinator.wishes import Distribution
from coordinator.workers import FoundWorker
from native import FlashAttention, LayerRange, Pooling

if TYPE_CHECKING:
    from typing_extensions import Unpack

_ANSWER_S = 2.0
"""For a worker to say how it is. On a LAN that takes a tenth of a second, which its processor is watched for."""


class OpenOptions(TypedDict, total=False):
    """The options of `MeshOptions`, for those who check types."""

    workers: Sequence[str]
    insecure_workers: bool
    discover: bool
    discovery_timeout_s: float
    local_workers: int
    only: Collection[str]
    exclude: Collection[str]
    distribution: Distribution
    objective: Objective
    max_stages: int | None
    replicas: int | None
    layer_ranges: Sequence[LayerRange] | None
    pinned: Mapping[str, LayerRange]
    main: str | None
    gpu_layers: int | None
    context: int | None
    parallel: int
    batch: int
    ubatch: int | None
    kv_type_k: str
    kv_type_v: str
    flash_attention: FlashAttention
    queue: int
    context_shift: bool
    draft: str | Path
    draft_on: str | None
    draft_device: str | None
    draft_threads: int | None
    embeddings: bool
    pooling: Pooling | None
    client_limit: int | None
    request_timeout: float | None
    worker_timeout: float
    recovery_timeout: float
    rejoin: bool
    predicted: bool
    max_bandwidth: int | None


class AsyncMesh(LineFace):
    """A model laid over workers, for asyncio. It has what `Mesh` has, to be awaited where that blocks.

    >>> async def tell() -> tuple[str, str]:
    ...     async with await AsyncMesh.open("demo", discover=False, local_workers=1) as mesh:
    ...         streamed, awaited = mesh.generate("Once upon", max_tokens=8), mesh.generate("A llama", max_tokens=8)
    ...         text = "".join([token.text async for token in streamed])
    ...         return text, (await awaited).text
    >>> once, llama = asyncio.run(tell())
    """

    def __init__(self, mesh: OpenMesh, feed: EventFeed) -> None:
        """Use `open`."""
        self._mesh = mesh
        self._feed = feed
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(
        cls,
        model: str | Path,
        *,
        on_progress: OnProgress | None = None,
        on_event: OnLineEvent | None = None,
        **options: Unpack[OpenOptions],
    ) -> AsyncMesh:
        """Finds workers, makes a plan, loads the model and connects the line.

        The command line's configuration file and variables are not read: what is not asked for here has its default.
        (A worker that is started here has its own variables, CARAVAN_WORKER_MEMORY and the like.)

        Args:
            model: Path of a GGUF file, "https://...", "hf:OWNER/REPO[:QUANT or FILE]", "ollama:NAME", or "demo".
            on_progress: Called on the loop with each step: its phase, the fraction and the bytes of what is loaded.
                When it returns False or raises, everything is called off.
            on_event: Called on the loop with what becomes of the line while the mesh is open: a worker was lost,
                others go on.
            options: Those of `MeshOptions`, which tells their meanings and defaults.

        Raises:
            NoWorkersError, VersionMismatchError, DuplicateNameError: There is nobody to load it on.
            ModelError, PlanError, DoesNotFitError: It cannot be loaded.
            WorkerError: A worker failed.
            CancelledError: `on_progress` returned False.
        """
        feed = EventFeed(on_event or ignore)
        return cls(await open_mesh(MeshOptions(model, **options), on_progress or ignore, feed), feed)

    def generate(self, prompt: str | Sequence[int | str], **options: Unpack[RequestOptions]) -> AsyncGeneration:
        """Continues a text, or tokens.

        Args:
            prompt: Text, to which the model's own special tokens are added; or token ids, taken as they are, with texts
                among them or not.
            options: As in `RequestOptions`.

        Returns:
            At once; the request is on its way.

        Raises:
            PromptTooLongError, InvalidRequestError: It cannot be served as asked; nothing was sent.
            OverloadedError: Slots and queue are full.
            ClientLimitError: Its client has as many requests under way as it may.
            ClosedError, WorkerError: The mesh serves no more.
        """
        return self._submit(self._admit(self.prompt_tokens(prompt), options))

    def chat(
        self,
        messages: Messages,
        *,
        template_variables: Mapping[str, object] | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncGeneration:
        """Answers messages (each with "role" and "content"), laid out by the model's own chat template.

        Args:
            template_variables: What the template reads beside the messages (tools and the like).

        Otherwise as `generate`.
        """
        tokens = self.chat_tokens(messages, template_variables=template_variables)
        return self._submit(self._admit(tokens, options))

    async def embed(self, inputs: Inputs, **options: Unpack[EmbeddingOptions]) -> Embeddings:
        """Embeds texts, or tokens; their vectors are llama.cpp's own.

        When the line breaks meanwhile, what has no vector is computed again on the next one. To cancel this cancels the
        request.

        Args:
            inputs: A text, or several; to each the model's own special tokens are added. Token ids are taken as they
                are.
            options: As in `EmbeddingOptions`.

        Raises:
            NotMadeForError: The mesh was not opened for embeddings.
            InputTooLongError, InvalidRequestError: They cannot be embedded as asked; nothing was sent.
            OverloadedError, ClientLimitError, ClosedError, WorkerError, DeadlineError: As `generate`.
        """
        return await self.embed_admitted(self.admit_inputs(inputs, **options))

    async def rerank(self, query: str, documents: Sequence[str], **options: Unpack[RankingOptions]) -> Ranking:
        """Says how well each document answers the query, by a model that was made for that; its scores are llama.cpp's
        own.

        Args:
            documents: At least one. Query and document are laid out as the model was trained, together within what is
                computed at once (`ubatch`).
            options: As in `RankingOptions`.

        Raises:
            NotMadeForError: The mesh's model is no reranker, or was opened with another pooling.
            InputTooLongError, InvalidRequestError: They cannot be ranked; nothing was sent.
            OverloadedError, ClientLimitError, ClosedError, WorkerError, DeadlineError: As `generate`.
        """
        return ranking_of(await self.embed_admitted(self.admit_documents(query, documents, **options)))

    async def embed_admitted(self, request: AdmittedEmbedding) -> Embeddings:
        """Embeds what `admit_inputs` or `admit_documents` let in.

        Raises:
            OverloadedError, ClientLimitError, ClosedError, WorkerError, DeadlineError: As `generate`.
            InvalidRequestError: Fewer dimensions were made than asked for.
        """
        return await _embed(self._mesh, request)

    def go_on(self, request: AdmittedRequest, before: Sequence[Token]) -> AsyncGeneration:
        """Goes on with a request that another mesh of the same model admitted and had begun.

        Args:
            before: What that generated, at least one token fewer than it may; the generation begins with them.

        Raises:
            PromptTooLongError, InvalidRequestError: This mesh could not have admitted it.
            OverloadedError, ClientLimitError, ClosedError, WorkerError: As `generate`.
        """
        self._mesh.admission.check(request)
        return self._submit(request, before)

    def events(self) -> AsyncLineEvents:
        """What becomes of the mesh's lines from now on: an async iterator, which ends when the mesh is closed. Any
        number may follow, beside `on_event`; of more than a thousand events that nobody reads the oldest go.

        Raises:
            ClosedError: The mesh is closed.
        """
        return self._feed.follow(AsyncLineEvents())

    async def workers(self) -> tuple[FoundWorker, ...]:
        """The workers of all lines as they are now, with what the drivers of their cards tell; those that do not answer
        within two seconds are left out."""
        return await _workers_of(self._mesh)

    async def close(self) -> None:
        """Ends what runs (with ClosedError), unloads the workers, and stops those that were started here. Safe to
        repeat."""
        await close_mesh(self._mesh, self._feed)

    async def __aenter__(self) -> AsyncMesh:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.close()

    def _submit(self, request: AdmittedRequest, before: Sequence[Token] = ()) -> AsyncGeneration:
        arrived = asyncio.Event()
        stream, cancel = submit(self._mesh, self._loop, request, arrived, before)
        return AsyncGeneration(stream, cancel, arrived, request)


class Mesh(LineFace):
    """A model laid over workers, for threads: `with Mesh.open(...) as mesh`. Every method may be called from any
    thread.

    >>> mesh.model_name, mesh.n_ctx, mesh.generate("Once upon a time", max_tokens=8).wait().finish_reason
    ('demo', 1024, <FinishReason.LENGTH: 'length'>)

    A mesh that is neither closed nor used in a `with` is closed when it is dropped or the interpreter exits.
    """

    def __init__(self, mesh: OpenMesh, thread: LoopThread, feed: EventFeed) -> None:
        """Use `open`."""
        self._mesh = mesh
        self._thread = thread
        self._feed = feed
        self._closer = weakref.finalize(self, _close, mesh, thread, feed)

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        on_progress: OnProgress | None = None,
        on_event: OnLineEvent | None = None,
        **options: Unpack[OpenOptions],
    ) -> Mesh:
        """As `AsyncMesh.open`, blocking, and as there no configuration file is read; `on_progress` and `on_event`
        are called on the mesh's own thread. Ctrl-C ends what was started."""
        thread = LoopThread("caravan-mesh")
        try:
            opened = thread.run(AsyncMesh.open(model, on_progress=on_progress, on_event=on_event, **options))
        except BaseException:
            thread.stop()
            raise
        return cls(opened._mesh, thread, opened._feed)

    def generate(self, prompt: str | Sequence[int | str], **options: Unpack[RequestOptions]) -> Generation:
        """As `AsyncMesh.generate`.

        >>> generation = mesh.generate("Once upon a time", max_tokens=8, sampling=SamplingParams(temperature=0))
        >>> text = "".join(token.text for token in generation)
        >>> generation.finish_reason, generation.usage.completion_tokens
        (<FinishReason.LENGTH: 'length'>, 8)

        Several at a time go through the line together:

        >>> both = [mesh.generate(prompt, max_tokens=8) for prompt in ("The llama", "The lantern")]
        >>> texts = [generation.wait().text for generation in both]
        """
        return self._submit(self._admit(self.prompt_tokens(prompt), options))

    def chat(
        self,
        messages: Messages,
        *,
        template_variables: Mapping[str, object] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """As `AsyncMesh.chat`.

        >>> messages = [{"role": "user", "content": "Name a colour, as JSON."}]
        >>> schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]}
        >>> held = SamplingParams(grammar=grammar_of(schema))
        >>> json.loads(mesh.chat(messages, sampling=held).wait().text)
        {'colour': '...'}
        """
        tokens = self.chat_tokens(messages, template_variables=template_variables)
        return self._submit(self._admit(tokens, options))

    def embed(self, inputs: Inputs, **options: Unpack[EmbeddingOptions]) -> Embeddings:
        """As `AsyncMesh.embed`, blocking; Ctrl-C cancels it.

        >>> llama, lantern = mesh.embed(["a llama", "a lantern"]).vectors
        >>> similarity = float(llama @ lantern)
        """
        return self.embed_admitted(self.admit_inputs(inputs, **options))

    def rerank(self, query: str, documents: Sequence[str], **options: Unpack[RankingOptions]) -> Ranking:
        """As `AsyncMesh.rerank`, blocking; Ctrl-C cancels it."""
        return ranking_of(self.embed_admitted(self.admit_documents(query, documents, **options)))

    def embed_admitted(self, request: AdmittedEmbedding) -> Embeddings:
        """As `AsyncMesh.embed_admitted`, blocking."""
        return self._thread.run(_embed(self._mesh, request))

    def events(self) -> LineEvents:
        """As `AsyncMesh.events`; the iterator waits for the next one, so give it a thread of its own.

        >>> def log(events: LineEvents) -> None:
        ...     for event in events:
        ...         logging.warning("%s: %s", event.change, event.message)
        >>> threading.Thread(target=log, args=(mesh.events(),), daemon=True).start()
        """
        return self._thread.call(lambda: self._feed.follow(LineEvents()))

    def workers(self) -> tuple[FoundWorker, ...]:
        """As `AsyncMesh.workers`, blocking.

        >>> [worker.name for worker in mesh.workers()]
        ['local-1', 'local-2']
        """
        return self._thread.run(_workers_of(self._mesh))

    def close(self) -> None:
        """As `AsyncMesh.close`, blocking; the mesh's thread has ended when this returns."""
        self._closer()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, request: AdmittedRequest) -> Generation:
        arrived = ThreadSignal()
        loop = self._thread.loop
        stream, cancel = self._thread.call(lambda: submit(self._mesh, loop, request, arrived))
        return Generation(stream, cancel, arrived)


async def _workers_of(mesh: OpenMesh) -> tuple[FoundWorker, ...]:
    clients = [client for line in mesh.lines for client in line.recovery.clients]
    answers = await asyncio.gather(
        *(client.describe(_ANSWER_S, telemetry=True) for client in clients), return_exceptions=True
    )
    return tuple(answer for answer in answers if isinstance(answer, FoundWorker))


async def _embed(mesh: OpenMesh, request: AdmittedEmbedding) -> Embeddings:
    """On the mesh's loop."""
    ended, session = asyncio.Event(), mesh.least_loaded
    request_id, stream = session.embed(request, ended)
    try:
        while not stream.ended:
            await ended.wait()
    finally:
        session.cancel(request_id)  # nothing happens if it has ended
    return stream.result(request.finish)


def submit(
    mesh: OpenMesh,
    loop: asyncio.AbstractEventLoop,
    request: AdmittedRequest,
    signal: Signal,
    before: Sequence[Token] = (),
) -> tuple[TokenStream, Callable[[], None]]:
    """Hands a request to the session with the least to do (on its loop); gives the stream of its tokens, and what
    cancels it from any thread."""
    session = mesh.least_loaded
    request_id, stream = session.submit(request, signal, before)

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and so is the mesh
            loop.call_soon_threadsafe(session.cancel, request_id)

    def resume() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(session.resume, request_id)

    stream.on_room = resume
    return stream, cancel


async def close_mesh(mesh: OpenMesh, feed: EventFeed, *, may_stay_warm: bool = True) -> None:
    """As `OpenMesh.close`; who follows its events hears of everything, and that it is over."""
    try:
        await mesh.close(may_stay_warm=may_stay_warm)
    finally:
        feed.close()


def _close(mesh: OpenMesh, thread: LoopThread, feed: EventFeed) -> None:
    if thread.is_current:  # the garbage collector dropped a mesh while its own thread ran
        closing = thread.loop.create_task(close_mesh(mesh, feed))
        closing.add_done_callback(lambda _: thread.stop())
        return
    try:
        thread.run(close_mesh(mesh, feed))
    finally:
        thread.stop()
