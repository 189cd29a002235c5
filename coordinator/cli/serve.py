# SPDX-License-Identifier: MIT
"""`caravan serve MODEL`: OpenAI's HTTP API over lines of workers, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import click

from coordinator.catalogue import MOST_LOADED, SWAP_TIMEOUT_S
from coordinator.cli.access import AccessOptions, access_of, access_options
from coordinator.cli.console import say
from coordinator.cli.exits import ExitCode, StartError, StoppedError
from coordinator.cli.interrupts import on_stop_signals
from coordinator.cli.journal import JournalOptions, claimed_journal, journal_options, kept_answers
from coordinator.cli.line import tell_event, tell_lines
from coordinator.cli.options import (
    LineOptions,
    json_progress_option,
    line_options,
    local_option,
    model_argument,
    option,
)
from coordinator.cli.progress import JsonProgress, LoadProgress, as_data, load_progress
from coordinator.cli.served_models import ServeOptions, served_models
from coordinator.cli.settings import Settings, debug_option
from coordinator.events import LineEvent, LoadEvent
from coordinator.http.access import Access
from coordinator.http.answers import Answers
from coordinator.http.server import HttpServer, ListenAddress, bind
from coordinator.http.service import Service
from coordinator.mesh import AsyncMesh
from coordinator.resident import KnownModel
from coordinator.team import counted


class _ListenAddress(click.ParamType[ListenAddress]):
    name = "HOST:PORT"

    def convert(
        self, value: str | ListenAddress, param: click.Parameter | None, ctx: click.Context | None
    ) -> ListenAddress:
        if isinstance(value, ListenAddress):
            return value
        try:
            return ListenAddress.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("serve")
@model_argument(several=True)
@option("--listen", default="127.0.0.1:8080", type=_ListenAddress(), help="Where to listen; port 0: any free one.")
@access_options
@option("--alias", metavar="NAME", help="The model's name for clients, if it is one.  [default: the file's]")
@option(
    "--models-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Serve the GGUF files of this folder too, each loaded when a request names it.",
)
@option(
    "--models-max",
    default=MOST_LOADED,
    type=click.IntRange(min=0),
    metavar="N",
    help="How many models are loaded at once, each on workers of its own; 0: as many as find room.",
)
@option(
    "--swap-timeout",
    default=SWAP_TIMEOUT_S,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="How long the requests of a model go on that makes way for another; then they end with an error.",
)
@option(
    "--queue",
    default=64,
    type=click.IntRange(0, 1 << 16),
    metavar="N",
    help="How many requests may wait for a free sequence; more are answered 429.",
)
@option(
    "--client-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many requests one client may have, running and waiting; more are answered 429.",
)
@option(
    "--request-timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long a request may take, waiting included; then it ends with an error.",
)
@option(
    "--reasoning-format",
    default="auto",
    type=click.Choice(["none", "auto", "deepseek"]),
    help="Where a model's thoughts are told: in reasoning_content, or, none, in content as they stand.",
)
@journal_options
@json_progress_option
@local_option
@line_options
@debug_option
@click.pass_obj
def command(
    settings: Settings,
    model: tuple[str, ...],
    listen: ListenAddress,
    access: AccessOptions,
    alias: str | None,
    models_dir: Path | None,
    models_max: int,
    swap_timeout: float,
    queue: int,
    client_limit: int | None,
    request_timeout: float | None,
    reasoning_format: str,
    journal: JournalOptions,
    json_progress: bool,
    local: int,
    line: LineOptions,
) -> int:
    """Serve MODEL over OpenAI's HTTP API.

    MODEL is a GGUF file or its https:// address, hf:OWNER/REPO[:QUANT], ollama:NAME, or "demo". Workers on the network
    are found by themselves; where there are none, one is started on this machine. Ctrl-C lets running requests finish,
    a second one does not.

    Of several the first is loaded, and each other one when a request names it in its field `model`; where there is no
    room for both, the one makes way that was used longest ago. They are called as their files are, or NAME=MODEL.

    \b
    caravan serve model.gguf --listen 127.0.0.1:8080
    caravan serve chat=qwen3-32b.gguf small=qwen3-4b.gguf
    caravan serve --models-dir ~/models
    """
    allowed = access_of(listen, access, has_cluster=not line.insecure_workers)
    tables = settings.config.models if settings.config is not None else {}
    options = ServeOptions(line, queue, client_limit, request_timeout, local)
    models = served_models(model, alias, models_dir, tables, options)
    if journal.journal is not None and (len(models) > 1 or not model):
        raise click.UsageError("--journal keeps the answers of one MODEL: leave it out, or all other models")
    try:
        listening = bind(listen)
    except OSError as error:
        raise StartError(
            f"cannot listen on {listen}: {error.strerror or error}; choose another with --listen"
        ) from None
    with listening, claimed_journal(journal.path(listen)):
        telling = _Telling(load_progress(as_json=json_progress), names_models=len(models) > 1)
        service = Service(
            models,
            most_loaded=models_max,
            swap_timeout_s=swap_timeout,
            tells_thoughts_apart=reasoning_format != "none",
            on_progress=telling.note_progress,
            on_event=telling.note_event,
        )
        keeping = functools.partial(kept_answers, journal.path(listen), journal)
        first = models[0] if model else None
        return asyncio.run(_serve(first, allowed, listening, service, telling, keeping))


async def _serve(
    first: KnownModel | None,
    access: Access,
    listening: socket.socket,
    service: Service,
    telling: _Telling,
    keeping: Callable[[AsyncMesh], AbstractAsyncContextManager[Answers | None]],
) -> int:
    """Answers `/health` while it loads, then requests; returns the exit code when everything is closed."""
    server = HttpServer(service, listening, access)
    stop = _Stop(server, service)
    with on_stop_signals(stop):
        serving = asyncio.create_task(server.run())
        try:
            async with contextlib.AsyncExitStack() as resources:
                resources.push_async_callback(service.catalogue.close)
                answers = None
                if first is not None:
                    stop.loading = asyncio.create_task(telling.started(service, first))
                    answers = await resources.enter_async_context(keeping(await stop.loading))
                service.begin(answers)
                _tell_ready(service, first, listening)
                await serving
        except asyncio.CancelledError:
            if stop.signal_number is None:
                raise
        finally:
            server.drain()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    return ExitCode.OK if stop.signal_number != signal.SIGINT else StoppedError(signal.SIGINT).exit_code


def _tell_ready(service: Service, first: KnownModel | None, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    others = [name for name in service.catalogue.names if first is None or name != first.name]
    if others:
        say(f"loaded when a request names them: {', '.join(others)}", style="dim")
    say(f"a chat, and what the line does: http://{_in_a_browser(host, port)}/", style="dim")
    what = (
        f"{first.name} is"
        if first is not None
        else f"{counted(len(others), 'model')} {'is' if len(others) == 1 else 'are'}"
    )
    say(f"{what} ready on http://{ListenAddress(host, port)}/v1")


def _in_a_browser(host: str, port: int) -> ListenAddress:
    """What to type for where it listens; all addresses are none."""
    return ListenAddress({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)


class _Stop:
    """What the first signal does: a load is called off, a ready server finishes what runs."""

    def __init__(self, server: HttpServer, service: Service) -> None:
        self._server = server
        self._service = service
        self.loading: asyncio.Task[AsyncMesh] | None = None
        self.signal_number: int | None = None

    def __call__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        self._server.drain()
        if self.loading is not None and not self.loading.done():
            self.loading.cancel()
        elif self._service.n_requests:
            say("finishing the requests that run; Ctrl-C again to stop at once")


class _Telling:
    """What is said of models: of the first one's loading as everywhere, then a line for each event."""

    def __init__(self, progress: LoadProgress | JsonProgress, *, names_models: bool) -> None:
        self._progress = progress
        self._names_models = names_models
        self._is_starting = False

    async def started(self, service: Service, first: KnownModel) -> AsyncMesh:
        """The first model, loaded."""
        self._is_starting = True
        try:
            with self._progress:
                mesh = await service.start(first.name)
        finally:
            self._is_starting = False
        tell_lines(mesh.plans)
        return mesh

    def note_progress(self, name: str, event: LoadEvent) -> None:
        """A load goes on."""
        if self._is_starting:
            self._progress(event)
        elif isinstance(self._progress, JsonProgress):
            say(json.dumps({"model": name, **as_data(event)}))

    def note_event(self, name: str, event: LineEvent) -> None:
        """Something became of a line, or of a model."""
        if self._names_models and not event.change.is_of_model:
            event = replace(event, message=f"{name}: {event.message}")
        tell_event(event)
