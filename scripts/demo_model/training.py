# SPDX-License-Identifier: MIT
"""Training on CPU: batches of documents of like length, Muon for the matrices, AdamW for the rest."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .model import DemoModel
from .tokenizer import Encoded

_IGNORED = -100
"""The label of what is not learned; `cross_entropy` skips it."""
_SORTED_TOGETHER = 2048
"""Documents that are sorted by length to make batches of; enough for under 5 % of padding."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn."""

    n_steps: int
    batch_tokens: int = 4096
    matrix_rate: float = 0.02
    other_rate: float = 0.003
    n_warmup: int = 40
    report_every: int = 20


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training stands; `loss` is the mean since the last report, in nats per learned token."""

    n_steps: int
    loss: float
    n_tokens: int
    took_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Token ids and labels, both [n_seq, n_tokens]."""

    ids: Tensor
    labels: Tensor


def batches(documents: Iterator[Encoded], batch_tokens: int, rng: random.Random) -> Iterator[Batch]:
    """Endless batches of up to `batch_tokens` tokens; every row is one document from its start."""
    while True:
        block = sorted((next(documents) for _ in range(_SORTED_TOGETHER)), key=lambda document: len(document.ids))
        groups: list[list[Encoded]] = [[]]
        for document in block:
            if len(document.ids) * (len(groups[-1]) + 1) > batch_tokens:
                groups.append([])
            groups[-1].append(document)
        rng.shuffle(groups)
        yield from map(padded, groups)


def padded(documents: Sequence[Encoded]) -> Batch:
    """The documents as one batch, padded at their ends with what no label asks for."""
    n_tokens = max(len(document.ids) for document in documents) - 1
    ids = torch.zeros(len(documents), n_tokens, dtype=torch.long)
    labels = torch.full((len(documents), n_tokens), _IGNORED)
    for row, document in enumerate(documents):
        length = len(document.ids) - 1
        ids[row, :length] = torch.tensor(document.ids[:-1])
        after = zip(document.ids[1:], document.learned[1:], strict=True)
        labels[row, :length] = torch.tensor([token if learned else _IGNORED for token, learned in after])
    return Batch(ids, labels)


def loss_of(model: DemoModel, batch: Batch) -> Tensor:
    """Mean cross-entropy per learned token, in nats."""
    logits = model(batch.ids)
    return functional.cross_entropy(logits.float().flatten(0, 1), batch.labels.flatten(), ignore_index=_IGNORED)


def train(model: DemoModel, supply: Iterator[Batch], schedule: Schedule) -> Iterator[Progress]:
    """Train `model` in place, in bfloat16 arithmetic where this CPU has it, weights in float32.

    Yields every `report_every` steps; between two yields the weights may be read.
    """
    optimizers = _optimizers(model, schedule)
    started, n_seen, recent = time.monotonic(), 0, []
    for step in range(schedule.n_steps):
        batch = next(supply)
        recent.append(_learn_from(batch, model, optimizers, rate_at(step, schedule)))
        n_seen += batch.ids.numel()
        if (step + 1) % schedule.report_every == 0 or step + 1 == schedule.n_steps:
            yield Progress(step + 1, sum(recent) / len(recent), n_seen, time.monotonic() - started)
            recent.clear()


@torch.no_grad()
def evaluate(model: DemoModel, documents: Sequence[Encoded]) -> float:
    """Mean loss per learned token over documents that were not trained on, in float32."""
    total, n_learned = 0.0, 0
    for start in range(0, len(documents), 16):
        batch = padded(documents[start : start + 16])
        n_here = int((batch.labels != _IGNORED).sum())
        total += loss_of(model, batch).item() * n_here
        n_learned += n_here
    return total / n_learned


def rate_at(step: int, schedule: Schedule) -> float:
    """What the learning rates are multiplied with at `step`: a short rise, then half a cosine down to nothing."""
    if step < schedule.n_warmup:
        return (step + 1) / schedule.n_warmup
    progress = (step - schedule.n_warmup) / max(1, schedule.n_steps - schedule.n_warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself; elsewhere it would be slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _learn_from(batch: Batch, model: DemoModel, optimizers: Sequence[torch.optim.Optimizer], rate: float) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
        loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _optimizers(model: DemoModel, schedule: Schedule) -> tuple[torch.optim.Optimizer, ...]:
    layers = [weight for layer in model.layers for weight in layer.parameters() if weight.dim() == 2]
    chosen = {id(weight) for weight in layers}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    muon = torch.optim.Muon(layers, lr=schedule.matrix_rate, weight_decay=0.01, adjust_lr_fn="original")
    adamw = torch.optim.AdamW(others, lr=schedule.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer, peak in ((muon, schedule.matrix_rate), (adamw, schedule.other_rate)):
        for group in optimizer.param_groups:
            group["peak"] = peak
    return muon, adamw
