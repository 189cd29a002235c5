# SPDX-License-Identifier: MIT
"""From what a person wrote to a source of weights. Looking is done on a thread of its own, since it reads files and
servers; used when a mesh opens, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from coordinator.errors import ModelNotFoundError, SourceError
from coordinator.models import resolve_model
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.local import LocalSource
from coordinator.weights.ollama import ollama_file
from coordinator.weights.other_programs import files_named
from coordinator.weights.references import (
    FileReference,
    HubReference,
    OllamaReference,
    UrlReference,
    name_of,
    parse_reference,
)
from coordinator.weights.source import WeightSource

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")

_TELL_EVERY_S = 0.1


def model_name(reference: str | Path) -> str:
    """What to call the model; of a file on this machine it is looked whether it is there.

    Raises:
        ModelError: There is no such file, or the reference is none.
    """
    parsed = parse_reference(reference)
    return resolve_model(parsed.path).name if isinstance(parsed, FileReference) else name_of(parsed)


async def open_source(
    reference: str | Path, on_step: Callable[[FetchStep], object], max_bytes_per_s: int | None = None
) -> WeightSource:
    """The source that is meant, its headers read; to be closed.

    Args:
        on_step: Called on the loop; what it raises calls everything off.

    Raises:
        CaravanError: It is not there, cannot be reached, or cannot be used.
        NativeError: It is no model.
    """
    steps: deque[FetchStep] = deque()
    errand = Errand(steps.append, max_bytes_per_s)
    looking = asyncio.ensure_future(on_own_thread(lambda: find_source(reference, errand), "caravan-source"))
    try:
        while not looking.done():
            await asyncio.wait([looking], timeout=_TELL_EVERY_S)
            new = [steps.popleft() for _ in range(len(steps))]
            for step, following in itertools.zip_longest(new, new[1:]):
                # Of steps that say the same, the last.
                if following is None or following.message != step.message:
                    on_step(step)
        return looking.result()
    except BaseException:
        errand.cancellation.cancel()
        looking.cancel()
        (found,) = await asyncio.gather(looking, return_exceptions=True)
        if isinstance(found, WeightSource):
            found.close()
        raise


def find_source(reference: str | Path, errand: Errand) -> WeightSource:
    """As `open_source`, blocking."""
    parsed = parse_reference(reference)
    name = name_of(parsed)
    if isinstance(parsed, FileReference):
        return _open_file(parsed)
    if isinstance(parsed, OllamaReference):
        return LocalSource.open(name, ollama_file(parsed.name))
    if isinstance(parsed, HubReference):
        # Imported where it is used: half a second that nobody with a file of his own waits.
        from coordinator.weights.hub import open_hub

        return open_hub(name, str(reference), parsed, errand)
    return _open_url(name, parsed, errand)


def _open_file(reference: FileReference) -> WeightSource:
    try:
        file = resolve_model(reference.path)
    except ModelNotFoundError as error:
        path = Path(reference.path)
        elsewhere = files_named(path.name) if path.parent == Path() and path.suffix == ".gguf" else []
        if not elsewhere:
            raise
        raise ModelNotFoundError(
            f"there is no file {path} here; did you mean {' or '.join(map(str, elsewhere[:3]))}?"
        ) from error
    return LocalSource.open(file.name, file.path)


def _open_url(name: str, reference: UrlReference, errand: Errand) -> WeightSource:
    from coordinator.weights.download import downloaded
    from coordinator.weights.headers import what_was
    from coordinator.weights.http_file import http_client
    from coordinator.weights.remote import open_kept, open_remote, url_parts

    client = http_client()
    try:
        return open_remote(name, reference.url, client, url_parts(reference, client), errand)
    except SourceError as error:
        if not error.retry_safe:
            raise
        path = downloaded(reference.file_name, reference.url)
        if path is not None:
            _LOG.warning("%s; going on with %s", error, path)
            return LocalSource.open(name, path)
        kept = what_was(reference.url)
        if kept is None:
            raise
        _LOG.warning("%s; going on with the header that was fetched before", error)
        return open_kept(name, kept, str(error))


async def on_own_thread(work: Callable[[], _T], name: str) -> _T:
    """The result of what blocks. Its thread keeps no process from ending, if it should be waiting for a network when
    nobody waits for it any more."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # it is raised again where it is waited for
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
