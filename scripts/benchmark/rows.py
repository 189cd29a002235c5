# SPDX-License-Identifier: MIT
"""The rows of the side-by-side of record, with what each has to show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

from benchmark.chat import N_TURNS, WITHOUT, chat
from benchmark.model import model_file
from benchmark.network import Network
from benchmark.ours import LEAST_BUSY, MEDIAN_BEFORE, MEDIAN_DURING, WITH_OUTPUT, OurLine, caravan
from benchmark.row import Aim, Contender, Row, Setting
from benchmark.theirs import BOTH_CORES, RPC, both_cores, rpc, with_ubatch

_UBATCHES = (128, 512)
_SHORT_PROMPT = 16
"""Tokens of each of many streams' prompts, as llama-batched-bench needs some."""
_N_RUNNING = 8

_LOOPBACK = Network()
_RPC_BEST = tuple(with_ubatch(RPC, n_ubatch) for n_ubatch in _UBATCHES)
_BOTH_BEST = tuple(with_ubatch(BOTH_CORES, n_ubatch) for n_ubatch in _UBATCHES)

Contenders = Callable[[Setting], AbstractContextManager[Sequence[Contender]]]


@contextlib.contextmanager
def _decode(setting: Setting, *, network: Network = _LOOPBACK, kind: str = "Q8_0") -> Iterator[Sequence[Contender]]:
    """One stream."""
    model = model_file(setting.work, kind, setting.programs)
    with (
        network.places(len(setting.cores)) as places,
        caravan(setting, model, network=network, places=places, context=setting.n_decode + 16) as line,
        rpc(setting, model, network=network, places=places) as peer,
    ):
        yield [line.decode, peer.decode]


@contextlib.contextmanager
def _decode_many(setting: Setting, *, n_streams: int) -> Iterator[Sequence[Contender]]:
    """As many streams, beside llama.cpp with all of them in one batch."""
    model = model_file(setting.work, "Q8_0", setting.programs)
    # Streams that began first run on until the last ones have their tokens.
    context = 2 * (_SHORT_PROMPT + setting.n_decode) + 2 * n_streams
    with (
        _LOOPBACK.places(len(setting.cores)) as places,
        caravan(
            setting, model, network=_LOOPBACK, places=places, context=context, parallel=n_streams, n_parts=WITH_OUTPUT
        ) as line,
        rpc(setting, model, network=_LOOPBACK, places=places) as peer,
    ):
        yield [
            partial(line.decode_many, _SHORT_PROMPT),
            partial(peer.decode_many, n_streams, _SHORT_PROMPT),
            partial(both_cores(setting, model).decode_many, n_streams, _SHORT_PROMPT),
        ]


@contextlib.contextmanager
def _prefill(setting: Setting, *, network: Network = _LOOPBACK) -> Iterator[Sequence[Contender]]:
    """One long prompt."""
    model = model_file(setting.work, "Q8_0", setting.programs)
    with (
        network.places(len(setting.cores)) as places,
        caravan(setting, model, network=network, places=places, context=setting.n_prompt + 16) as line,
        rpc(setting, model, network=network, places=places) as peer,
    ):
        contenders: list[Contender] = [line.prefill, partial(peer.prefill, _UBATCHES)]
        if not network.rate:
            contenders.append(partial(both_cores(setting, model).prefill, _UBATCHES))
        yield contenders


@contextlib.contextmanager
def _ours(
    setting: Setting, *, measured: Callable[[OurLine], Mapping[str, float]], parallel: int = 1
) -> Iterator[Sequence[Contender]]:
    """What is held against itself, if against anything."""
    model = model_file(setting.work, "Q8_0", setting.programs)
    # Streams run from well before a long prompt until its first token.
    context = setting.n_prompt + 4 * setting.n_decode
    with (
        _LOOPBACK.places(len(setting.cores)) as places,
        caravan(setting, model, network=_LOOPBACK, places=places, context=context, parallel=parallel) as line,
    ):
        yield [partial(measured, line)]


def _one_stream(name: str, how: str, at_least: float, **options: object) -> Row:
    contenders: Contenders = partial(_decode, **options)  # type: ignore[arg-type]
    return Row(name, f"one stream, decode, {how}, tok/s", contenders, (Aim((RPC,), at_least=at_least),))


ROWS = (
    _one_stream("decode", "loopback", 0.97),
    _one_stream("decode-0.5ms", "0.5 ms one way", 1.25, network=Network(0.5)),
    _one_stream("decode-5ms", "5 ms one way", 1.25, network=Network(5)),
    _one_stream("decode-q4_0", "Q4_0, loopback", 1.5, kind="Q4_0"),
    _one_stream("decode-q4_k_m", "Q4_K_M, loopback", 1.5, kind="Q4_K_M"),
    Row(
        "decode-16", "16 streams, decode, tok/s", partial(_decode_many, n_streams=16), (Aim((RPC,), at_least=1.4),)
    ),
    Row(
        "decode-32", "32 streams, decode, tok/s", partial(_decode_many, n_streams=32),
        (Aim((RPC,), at_least=1.6), Aim((BOTH_CORES,), at_least=0.8), Aim(of=LEAST_BUSY, at_least=0.85)),
    ),
    Row(
        "prefill", "one long prompt, prefill, loopback, tok/s", _prefill,
        (Aim(_RPC_BEST, at_least=1.0), Aim(_BOTH_BEST, at_least=0.95)),
    ),
    Row(
        "prefill-1gbit", "the same, 1 Gbit/s and 0.5 ms one way, tok/s",
        partial(_prefill, network=Network(0.5, "1gbit")), (Aim(_RPC_BEST, at_least=1.05),),
    ),
    # Speculation comes here: prompt lookup on text that repeats and on novel text, a draft model with and without
    # running ahead.
    Row(
        "chat", f"chat of {N_TURNS} turns, prompt tokens computed", chat, (Aim((WITHOUT,), at_most=0.1),),
        is_count=True,
    ),
    Row(
        "gaps", f"p95 gap between tokens of {_N_RUNNING} streams while a long prompt arrives, ms",
        partial(_ours, measured=OurLine.gaps, parallel=_N_RUNNING + 1),
        (Aim((MEDIAN_BEFORE,), at_most=2.0), Aim((MEDIAN_DURING,), at_most=2.0)),
    ),
    Row("cost", "cost of a frame and hop beside computing, one stream, ms", partial(_ours, measured=OurLine.cost)),
)  # fmt: skip
