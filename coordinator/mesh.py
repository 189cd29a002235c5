# SPDX-License-Identifier: MIT
"""The public face: a model laid over workers, as an object. `AsyncMesh` lives on the event loop that opened it; `Mesh`
is the same object driven on an event loop in a thread of its own, for programs without one. Who opens a mesh closes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypedDict

from coordinator.activity import LineActivity, activity_of
from coordinator.admission import AdmittedRequest, Messages, RequestOptions
from coordinator.errors import CaravanError
from coordinator.events import OnLineEvent, OnProgress, ignore
from coordinator.generation import AsyncGeneration, Generation, Signal, Token, TokenStream
from coordinator.loop_thread import LoopThread, ThreadSignal
from coordinator.opening import OpenMesh, open_mesh
from coordinator.options import MeshOptions
from coordinator.plan import Plan
from coordinator.recovery import Joined, Recovered
from coordinator.search import Objective
from coordinator.timings import MeasuredTokens
from coordinator.waterfall import WINDOW_S
from coordinator.wishes import Distribution
from coordinator.workers import FoundWorker, LeftOutWorker
from native import FlashAttention, LayerRange, Vocabulary

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
    draft_device: str | None
    draft_threads: int | None
    client_limit: int | None
    request_timeout: float | None
    worker_timeout: float
    recovery_timeout: float
    rejoin: bool
    predicted: bool
    max_bandwidth: int | None


class _Face:
    """What both faces share: everything that can be told without waiting."""

    _mesh: OpenMesh

    @property
    def plan(self) -> Plan:
        """Which worker holds which layers, with the bytes they took; of the first line, if there are several."""
        return self.plans[0]

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each line."""
        return tuple(line.plan for line in self._mesh.lines)

    @property
    def left_out(self) -> tuple[LeftOutWorker, ...]:
        """Workers that were found and cannot take part."""
        return self._mesh.left_out

    @property
    def model_name(self) -> str:
        """What to call the model: "demo", or its file's name without ending."""
        return self._mesh.model_name

    @property
    def model_identity(self) -> str:
        """What tells its files from those of all other models."""
        return self._mesh.model_identity

    @property
    def model_path(self) -> Path:
        """The model's first file; of a model that is elsewhere, where its header lies."""
        return self._mesh.model_path

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's; valid until the mesh is closed."""
        return self._mesh.vocabulary

    @property
    def n_ctx(self) -> int:
        """Tokens per sequence, prompt and answer together."""
        return self._mesh.params.n_ctx_seq

    @property
    def parallel(self) -> int:
        """Sequences at a time, of all lines; further requests wait."""
        return self._mesh.params.n_seq_max * len(self._mesh.lines)

    @property
    def error(self) -> CaravanError | None:
        """Why the mesh serves no more; None while it does."""
        return self._mesh.error

    @property
    def recovered(self) -> tuple[Recovered, ...]:
        """The times that a line broke and another carried on, the last thousand of each line."""
        return tuple(each for line in self._mesh.lines for each in line.recovery.recovered)

    @property
    def joined(self) -> tuple[Joined, ...]:
        """The times that a line took in workers that came back or were new, the last thousand of each line."""
        return tuple(each for line in self._mesh.lines for each in line.recovery.joined)

    @property
    def n_running(self) -> int:
        """Requests that have a slot."""
        return sum(line.session.n_running for line in self._mesh.lines)

    @property
    def n_waiting(self) -> int:
        """Requests in the queue."""
        return sum(line.session.n_waiting for line in self._mesh.lines)

    @property
    def n_paused(self) -> int:
        """Of those that have a slot, those that wait for their readers (`max_unread`)."""
        return sum(line.session.n_paused for line in self._mesh.lines)

    @property
    def measured(self) -> MeasuredTokens | None:
        """How long the tokens of streams that were alone in the first line took, there and on each stage, to be held
        against `plan.prediction`; None: there were none."""
        return self._mesh.lines[0].session.measured

    def activity(self, window_s: float = WINDOW_S) -> tuple[LineActivity, ...]:
        """What each line does, and what limits its speed, by the last so many seconds. From any thread; takes a few
        milliseconds (the more, the more frames there were), so a server asks it beside its loop.

        Raises:
            ValueError: The window is not above 0, or more than 180 seconds.
        """
        lines, now_s = self._mesh.lines, time.monotonic()
        return tuple(
            activity_of(line.session, line.plan, n_lines=len(lines), window_s=window_s, now_s=now_s) for line in lines
        )

    def prompt_tokens(self, prompt: str | Sequence[int]) -> tuple[int, ...]:
        """The tokens that `generate` would make of a prompt. From any thread: a server tokenises long prompts beside
        its loop (a third of a second per megabyte), and gives `generate` the tokens.

        Raises:
            InvalidRequestError: As `generate`.
            ClosedError: The mesh is closed.
        """
        return self._mesh.admission.prompt_tokens(prompt)

    def chat_tokens(
        self, messages: Messages, *, template_variables: Mapping[str, object] | None = None
    ) -> tuple[int, ...]:
        """The tokens that `chat` would make of messages; for `generate`, otherwise as `prompt_tokens`."""
        return self._mesh.admission.chat_tokens(messages, template_variables)

    def _admit(self, tokens: tuple[int, ...], options: RequestOptions) -> AdmittedRequest:
        return self._mesh.admission.admit(tokens, options)


class AsyncMesh(_Face):
    """A model laid over workers, for asyncio: `async with await AsyncMesh.open(...) as mesh`."""

    def __init__(self, mesh: OpenMesh) -> None:
        """Use `open`."""
        self._mesh = mesh
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
        return cls(await open_mesh(MeshOptions(model, **options), on_progress or ignore, on_event or ignore))

    def generate(self, prompt: str | Sequence[int], **options: Unpack[RequestOptions]) -> AsyncGeneration:
        """Continues a text, or tokens.

        Args:
            prompt: Text, to which the model's own special tokens are added; or token ids, taken as they are.
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

    async def workers(self) -> tuple[FoundWorker, ...]:
        """The workers of all lines as they are now, with what the drivers of their cards tell; those that do not answer
        within two seconds are left out."""
        return await _workers_of(self._mesh)

    async def close(self) -> None:
        """Ends what runs (with ClosedError), unloads the workers, and stops those that were started here. Safe to
        repeat."""
        await self._mesh.close()

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


class Mesh(_Face):
    """A model laid over workers, for threads: `with Mesh.open(...) as mesh`. Every method may be called from any
    thread.

    A mesh that is neither closed nor used in a `with` is closed when it is dropped or the interpreter exits.
    """

    def __init__(self, mesh: OpenMesh, thread: LoopThread) -> None:
        """Use `open`."""
        self._mesh = mesh
        self._thread = thread
        self._closer = weakref.finalize(self, _close, mesh, thread)

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
        return cls(opened._mesh, thread)

    def generate(self, prompt: str | Sequence[int], **options: Unpack[RequestOptions]) -> Generation:
        """As `AsyncMesh.generate`."""
        return self._submit(self._admit(self.prompt_tokens(prompt), options))

    def chat(
        self,
        messages: Messages,
        *,
        template_variables: Mapping[str, object] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """As `AsyncMesh.chat`."""
        tokens = self.chat_tokens(messages, template_variables=template_variables)
        return self._submit(self._admit(tokens, options))

    def workers(self) -> tuple[FoundWorker, ...]:
        """As `AsyncMesh.workers`, blocking."""
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


def _close(mesh: OpenMesh, thread: LoopThread) -> None:
    if thread.is_current:  # the garbage collector dropped a mesh while its own thread ran
        closing = thread.loop.create_task(mesh.close())
        closing.add_done_callback(lambda _: thread.stop())
        return
    try:
        thread.run(mesh.close())
    finally:
        thread.stop()
