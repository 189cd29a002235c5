# SPDX-License-Identifier: MIT
"""`caravan serve MODEL`: OpenAI's HTTP API over a line of workers, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import click

from coordinator.cli.access import AccessOptions, access_of, access_options
from coordinator.cli.console import say
from coordinator.cli.exits import ExitCode, StartError, StoppedError
from coordinator.cli.interrupts import on_stop_signals
from coordinator.cli.journal import JournalOptions, claimed_journal, journal_options, kept_answers
from coordinator.cli.line import open_arguments, tell_event, tell_lines
from coordinator.cli.options import LineOptions, json_progress_option, line_options, local_option, option
from coordinator.cli.progress import JsonProgress, LoadProgress, load_progress
from coordinator.cli.settings import debug_option
from coordinator.events import LineEvent, LoadEvent
from coordinator.http.access import Access
from coordinator.http.answers import Answers
from coordinator.http.server import HttpServer, ListenAddress, bind
from coordinator.http.service import Service
from coordinator.mesh import AsyncMesh
from coordinator.weights.sources import model_name

_log = logging.getLogger(__name__)


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
@click.argument("model")
@option("--listen", default="127.0.0.1:8080", type=_ListenAddress(), help="Where to listen; port 0: any free one.")
@access_options
@option("--alias", metavar="NAME", help="The model's name for clients.  [default: the file's]")
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
@journal_options
@json_progress_option
@local_option
@line_options
@debug_option
def command(
    model: str,
    listen: ListenAddress,
    access: AccessOptions,
    alias: str | None,
    queue: int,
    client_limit: int | None,
    request_timeout: float | None,
    journal: JournalOptions,
    json_progress: bool,
    local: int,
    line: LineOptions,
) -> int:
    """Serve MODEL over OpenAI's HTTP API.

    MODEL is a GGUF file or its https:// address, hf:OWNER/REPO[:QUANT], ollama:NAME, or "demo". Workers on the network
    are found by themselves; where there are none, one is started on this machine. Ctrl-C lets running requests finish,
    a second one does not.

    \b
    caravan serve model.gguf --listen 127.0.0.1:8080
    """
    allowed = access_of(listen, access, has_cluster=not line.insecure_workers)
    try:
        listening = bind(listen)
    except OSError as error:
        raise StartError(
            f"cannot listen on {listen}: {error.strerror or error}; choose another with --listen"
        ) from None
    with listening, claimed_journal(journal.path(listen)):
        arguments = open_arguments(line) | {
            "queue": queue,
            "client_limit": client_limit,
            "request_timeout": request_timeout,
            "local_workers": local,
            # Whether a worker that comes later would make it faster is only known if it is known how fast it is.
            "predicted": line.rejoin == "auto" and line.discovery_timeout > 0 and line.distribution != "off",
        }
        progress = load_progress(as_json=json_progress)
        name = alias or model_name(model)
        keeping = functools.partial(kept_answers, journal.path(listen), journal)
        return asyncio.run(_serve(model, allowed, listening, name, progress, keeping, arguments))


async def _serve(
    model: str,
    access: Access,
    listening: socket.socket,
    name: str,
    progress: LoadProgress | JsonProgress,
    keeping: Callable[[AsyncMesh], AbstractAsyncContextManager[Answers | None]],
    arguments: dict[str, Any],
) -> int:
    """Answers `/health` while it loads, then requests; returns the exit code when everything is closed."""
    service = Service(name)
    server = HttpServer(service, listening, access)
    stop = _Stop(server, service)
    with on_stop_signals(stop):
        serving = asyncio.create_task(server.run())
        try:
            stop.loading = asyncio.create_task(_load(model, service, progress, arguments))
            mesh = await stop.loading
            async with mesh, keeping(mesh) as answers:
                service.begin(mesh, answers)
                tell_lines(mesh.plans)
                host, port = listening.getsockname()[:2]
                say(f"a chat, and what the line does: http://{_in_a_browser(host, port)}/", style="dim")
                say(f"{name} is ready on http://{ListenAddress(host, port)}/v1")
                await serving
        except asyncio.CancelledError:
            if stop.signal_number is None:
                raise
        finally:
            server.drain()
            with contextlib.suppress(asyncio.CancelledError):
                await serving
    return ExitCode.OK if stop.signal_number != signal.SIGINT else StoppedError(signal.SIGINT).exit_code


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


async def _load(
    model: str, service: Service, progress: LoadProgress | JsonProgress, arguments: dict[str, Any]
) -> AsyncMesh:
    with progress:
        note = functools.partial(_note, progress, service)
        return await AsyncMesh.open(
            model, on_progress=note, on_event=functools.partial(_note_event, service), **arguments
        )


def _note(progress: LoadProgress | JsonProgress, service: Service, event: LoadEvent) -> None:
    progress(event)
    service.note_progress(event)


def _note_event(service: Service, event: LineEvent) -> None:
    tell_event(event)
    service.note_event(event)
