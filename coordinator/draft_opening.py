# SPDX-License-Identifier: MIT
"""Opening a draft model, on this machine or on a worker: where it is, whether it can draft for the line's model, and
loading it. Used by `opening`, on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from coordinator.confirming import ModelOrder
from coordinator.draft_line import DraftOrder, RemoteDrafter
from coordinator.draft_model import Drafter, DraftModel, params_of_draft
from coordinator.errors import ModelError
from coordinator.events import LoadEvent, LoadPhase, OnLineEvent, OnProgress
from coordinator.options import MeshOptions
from coordinator.session import Session
from coordinator.weights.delivery import Delivery
from coordinator.weights.here import fetch_event, file_here
from coordinator.weights.source import WeightSource
from coordinator.weights.sources import open_source
from coordinator.workers import FoundWorker
from native import ContextParams, Vocabulary
from protos.channels import Channels
from protos.sizes import size


async def open_draft_model(
    options: MeshOptions, on_progress: OnProgress, stack: contextlib.AsyncExitStack
) -> DraftModel | None:
    """The model that the options name to draft with on this machine, loaded; None if they name none.

    Args:
        stack: Closes it.

    Raises:
        CaravanError: It is not there, or cannot be fetched.
        NativeError: It is no model, or cannot be loaded.
    """
    reference = options.draft_model
    if reference is None or options.draft_on is not None:
        return None
    path = await _file(reference, options.max_bandwidth, on_progress)
    on_progress(LoadEvent(LoadPhase.DRAFTING, f"loading the draft model {path.stem} on this machine"))
    model = await asyncio.to_thread(DraftModel.load, path, device=options.draft_device, n_threads=options.draft_threads)
    stack.callback(model.close)
    return model


async def open_on_worker(
    options: MeshOptions,
    worker: FoundWorker,
    line: ModelOrder,
    vocabulary: Vocabulary,
    channels: Channels,
    on_progress: OnProgress,
    on_event: OnLineEvent,
    stack: contextlib.AsyncExitStack,
) -> RemoteDrafter:
    """The draft model that the options name, loaded on that worker.

    Args:
        line: The model that it is to draft for, whose vocabulary it is.
        stack: Closes it.

    Raises:
        CaravanError: It is not there, cannot draft for that model, or cannot be loaded there.
        NativeError: It is no model.
    """
    assert options.draft_model is not None
    source = await _source(options.draft_model, options.max_bandwidth, on_progress)
    stack.callback(source.close)
    own_vocabulary = await asyncio.to_thread(Vocabulary.load, source.layout)
    with own_vocabulary:
        await check_can_draft(source.name, own_vocabulary, vocabulary, line.name)
    delivery = Delivery(source, options.max_bandwidth, channels)
    params = params_of_draft(line.params)
    drafter = RemoteDrafter(DraftOrder(worker, params, vocabulary.n_tokens, delivery), on_event)
    stack.push_async_callback(drafter.close)
    on_progress(LoadEvent(LoadPhase.DRAFTING, f"loading the draft model {source.name} on {worker.name}"))
    memory = await drafter.open()
    taken = _in_words(memory.device_bytes, memory.weights_bytes, memory.kv_bytes)
    on_progress(LoadEvent(LoadPhase.DRAFTING, f"the draft model takes {taken} on {worker.name}"))
    return drafter


async def check_can_draft(draft_name: str, drafting: Vocabulary, vocabulary: Vocabulary, name: str) -> None:
    """Looks whether a model with the vocabulary `drafting` can draft for the model of that name, with the other one.

    Raises:
        ModelError: It cannot, and why.
    """
    reason = "which cannot forget a guess that was wrong"
    if not vocabulary.can_forget_part:
        raise ModelError(f"{name} has recurrent layers, {reason}: nothing can be drafted for it; leave out --draft")
    if not drafting.can_forget_part:
        raise ModelError(f"{draft_name} has recurrent layers, {reason}: draft with another model")
    difference = await asyncio.to_thread(vocabulary.difference, drafting)
    if difference is not None:
        raise ModelError(
            f"{draft_name} cannot draft for {name}: its vocabulary {difference}; take a smaller model of the same"
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
    memory = drafter.memory
    taken = _in_words(memory.device_bytes, memory.weights_bytes, memory.kv_bytes)
    on_progress(LoadEvent(LoadPhase.DRAFTING, f"the draft model takes {taken} on this machine"))
    return drafter


async def _source(reference: str | Path, max_bytes_per_s: int | None, on_progress: OnProgress) -> WeightSource:
    return await open_source(reference, lambda step: on_progress(fetch_event(step)), max_bytes_per_s)


async def _file(reference: str | Path, max_bytes_per_s: int | None, on_progress: OnProgress) -> Path:
    with contextlib.closing(await _source(reference, max_bytes_per_s, on_progress)) as source:
        return await file_here(source, max_bytes_per_s, on_progress)


def _in_words(device_bytes: int, weights_bytes: int, kv_bytes: int) -> str:
    return f"{size(device_bytes)} ({size(weights_bytes)} of weights, {size(kv_bytes)} of KV cache)"
