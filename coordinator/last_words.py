# SPDX-License-Identifier: MIT
"""Why workers' processes ended: what a worker that was started again tells of the process before it, checked, in a
sentence for people, and told once. Used by `control`, `regrouping` and `caravan nodes`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable

from coordinator.events import LineChange, LineEvent
from coordinator.workers import FoundWorker
from protos.caravan.v1 import control_pb2
from protos.contract import is_session_id
from protos.last_words import MAX_ENDS, WorkerEnd
from protos.log_tail import clean_tail, last_words
from protos.slate import Activity, Doing

_ACTIVITIES: dict[int, Activity] = {
    control_pb2.ACTIVITY_NOTHING: Activity.NOTHING,
    control_pb2.ACTIVITY_LOADING: Activity.LOADING,
    control_pb2.ACTIVITY_COMPUTING: Activity.COMPUTING,
    control_pb2.ACTIVITY_MEASURING: Activity.MEASURING,
}

_SIGNALS = {
    "SIGABRT": "an abort (SIGABRT)",
    "SIGSEGV": "a segmentation fault (SIGSEGV)",
    "SIGBUS": "a bus error (SIGBUS)",
    "SIGILL": "an illegal instruction (SIGILL)",
    "SIGFPE": "an arithmetic error (SIGFPE)",
}

_SIGNAL_NAME = re.compile(r"SIG[0-9A-Z]{1,12}", re.ASCII)

_LATEST_S = 366 * 86400.0
"""An end that is told to be longer ago was as long ago as that."""

_TODAY_S = 43200.0
"""For so long an end's time of day says when it was."""

_QUOTED_CHARACTERS = 300
"""Of a log, in a sentence."""

_CODES_BELOW = 256
"""Exit codes of Unix. Windows' own reasons are above, and are looked up in hexadecimal."""


class EndsHeard:
    """Of the workers of one mesh.

    Args:
        workers: Those that it was opened with. What ended before is not this mesh's.
    """

    def __init__(self, workers: Iterable[FoundWorker]) -> None:
        self._heard = {worker.name: _ids(worker) for worker in workers}

    def news(self, workers: Iterable[FoundWorker]) -> list[LineEvent]:
        """What was not told yet of those that have been met before."""
        events = []
        for worker in workers:
            heard = self._heard.get(worker.name)
            self._heard[worker.name] = _ids(worker)
            events += [_event(worker, end) for end in worker.ends if heard is not None and end.end_id not in heard]
        return events


def ends_of(messages: Iterable[control_pb2.WorkerEnd]) -> tuple[WorkerEnd, ...]:
    """What came over the network, within bounds; what has no id to tell it by is left out."""
    ended = list(messages)[-MAX_ENDS:]
    return tuple(_end(message) for message in ended if is_session_id(message.id))


def sentence(name: str, end: WorkerEnd) -> str:
    """How it ended, for people; times are this machine's."""
    saying = last_words(end.log_tail)[:_QUOTED_CHARACTERS]
    parts = [f"worker {name} ended at {_clock(end.ended_s)}", _how(end), *_while(end.doing)]
    return " ".join(parts) + (f"; its last words: {saying}" if saying else "; it said nothing")


def _event(worker: FoundWorker, end: WorkerEnd) -> LineEvent:
    return LineEvent(LineChange.ENDED, sentence(worker.name, end), worker.name, end=end)


def _ids(worker: FoundWorker) -> frozenset[str]:
    return frozenset(end.end_id for end in worker.ends)


def _how(end: WorkerEnd) -> str:
    if not end.signal_name:
        code = end.exit_code
        return f"with exit code {code if abs(code) < _CODES_BELOW else hex(code)}"
    if end.signal_name != "SIGKILL":
        return f"by {_SIGNALS.get(end.signal_name, end.signal_name)}"
    if end.for_memory is None:
        return "by SIGKILL (possibly the system's, for want of memory)"
    return "by SIGKILL (the system's, for want of memory, as it seems)" if end.for_memory else "by SIGKILL"


def _while(doing: Doing | None) -> list[str]:
    if doing is None or doing.activity is Activity.NOTHING:
        return []
    has_layers = doing.layer_start < doing.layer_end
    layers = f"layers {doing.layer_start} to {doing.layer_end - 1}" if has_layers else "a stage"
    match doing.activity:
        case Activity.COMPUTING if doing.n_tokens:
            kind = "prefill" if doing.is_prefill else "decode"
            sequences = "1 sequence" if doing.n_sequences == 1 else f"{doing.n_sequences} sequences"
            tokens = "1 token" if doing.n_tokens == 1 else f"{doing.n_tokens} tokens"
            return [f"while computing {tokens} of {sequences} ({kind}) with {layers}"]
        case Activity.COMPUTING:
            return [f"while changing the cache of {layers}"]
        case Activity.LOADING:
            return [f"while loading {layers}"]
        case _:
            return [f"while measuring {layers}"]


def _clock(at_s: float) -> str:
    is_today = abs(time.time() - at_s) < _TODAY_S
    return time.strftime("%H:%M:%S" if is_today else "%Y-%m-%d %H:%M:%S", time.localtime(at_s))


def _end(message: control_pb2.WorkerEnd) -> WorkerEnd:
    ago_s = message.seconds_ago if math.isfinite(message.seconds_ago) else 0.0
    is_signal = _SIGNAL_NAME.fullmatch(message.signal_name) is not None
    return WorkerEnd(
        end_id=message.id,
        ended_s=time.time() - min(max(0.0, ago_s), _LATEST_S),
        signal_name=message.signal_name if is_signal else "",
        exit_code=message.exit_code,
        for_memory=message.for_memory if message.HasField("for_memory") else None,
        doing=_doing(message.doing) if message.HasField("doing") else None,
        log_tail=clean_tail(message.log_tail),
    )


def _doing(message: control_pb2.Doing) -> Doing | None:
    activity = _ACTIVITIES.get(message.activity)
    if activity is None:
        return None
    return Doing(
        activity=activity,
        session_id=message.session_id if is_session_id(message.session_id) else "",
        epoch=message.epoch,
        layer_start=message.layer_start,
        layer_end=message.layer_end,
        frame_number=message.frame_number,
        n_tokens=message.n_tokens,
        n_sequences=message.n_sequences,
        is_prefill=message.is_prefill,
    )
