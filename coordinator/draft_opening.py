# SPDX-License-Identifier: MIT
"""Opening a draft model: where it is, whether it can draft for the line's model, and loading it. Used by `opening`, on
the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from coordinator.draft_model import Drafter, DraftModel
from coordinator.errors import ModelError
from coordinator.events import LoadEvent, LoadPhase, OnProgress
from coordinator.options import MeshOptions
from coordinator.plan import size
from coordinator.session import Session
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.progress import Transfer
from coordinator.weights.sources import on_own_thread, open_source
from coordinator.weights.whole import whole_file
from native import ContextParams, MemoryUse, Vocabulary


async def open_draft_model(
    options: MeshOptions, on_progress: OnProgress, stack: contextlib.AsyncExitStack
) -> DraftModel | None:
    """The model that the options name to draft with, loaded; None if they name none.

    Args:
        stack: Closes it.

    Raises:
        CaravanError: It is not there, or cannot be fetched.
        NativeError: It is no model, or cannot be loaded.
    """
    reference = options.draft_model
    if reference is None:
        return None
    path = await _file(reference, options.max_bandwidth, on_progress)
    on_progress(LoadEvent(LoadPhase.DRAFTING, f"loading the draft model {path.stem} on this machine"))
    model = await asyncio.to_thread(DraftModel.load, path, device=options.draft_device, n_threads=options.draft_threads)
    stack.callback(model.close)
    return model


async def check_can_draft(draft_model: DraftModel, vocabulary: Vocabulary, name: str) -> None:
    """Looks whether it can draft for the model of that name, whose vocabulary it is.

    Raises:
        ModelError: It cannot, and why.
    """
    reason = "which cannot forget a guess that was wrong"
    if not vocabulary.can_forget_part:
        raise ModelError(f"{name} has recurrent layers, {reason}: nothing can be drafted for it; leave out --draft")
    if not draft_model.vocabulary.can_forget_part:
        raise ModelError(f"{draft_model.name} has recurrent layers, {reason}: draft with another model")
    difference = await asyncio.to_thread(vocabulary.difference, draft_model.vocabulary)
    if difference is not None:
        raise ModelError(
            f"{draft_model.name} cannot draft for {name}: its vocabulary {difference}; take a smaller model of the same"
            " family"
        )


async def start_drafter(
    model: DraftModel,
    params: ContextParams,
    n_vocab: int,
    session: Session,
    on_progress: OnProgress,
    stack: contextlib.AsyncExitStack,
) -> Drafter:
    """Lets the model draft for a session that has no requests yet; tells the memory that it takes.

    Args:
        stack: Ends it.
    """
    loop = asyncio.get_running_loop()
    drafter = await asyncio.to_thread(model.drafter, params, n_vocab, loop, session.offer)
    stack.push_async_callback(drafter.close)
    session.draft_with(drafter.tell)
    on_progress(LoadEvent(LoadPhase.DRAFTING, f"the draft model takes {_in_words(drafter.memory)} on this machine"))
    return drafter


async def _file(reference: str | Path, max_bytes_per_s: int | None, on_progress: OnProgress) -> Path:
    loop = asyncio.get_running_loop()

    def tell(step: FetchStep) -> None:
        fraction = step.done_bytes / step.total_bytes if step.total_bytes else 0.0
        transfer = Transfer(step.total_bytes or 0, step.done_bytes)
        on_progress(LoadEvent(LoadPhase.FETCHING, step.message, fraction=fraction, transfer=transfer))

    def tell_from_thread(step: FetchStep) -> None:
        loop.call_soon_threadsafe(tell, step)

    source = await open_source(reference, tell, max_bytes_per_s)
    with contextlib.closing(source):
        errand = Errand(tell_from_thread, max_bytes_per_s)
        try:
            return await on_own_thread(lambda: whole_file(source, errand), "caravan-draft-file")
        except BaseException:
            errand.cancellation.cancel()
            raise


def _in_words(memory: MemoryUse) -> str:
    return f"{size(memory.device_bytes)} ({size(memory.weights_bytes)} of weights, {size(memory.kv_bytes)} of KV cache)"
