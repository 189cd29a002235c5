# SPDX-License-Identifier: MIT
"""How the processes before this one ended, as the contract tells it."""

import time
from collections.abc import Iterable

from protos.caravan.v1 import control_pb2
from protos.last_words import WorkerEnd
from protos.slate import Activity, Doing

_ACTIVITIES = {
    Activity.NOTHING: control_pb2.ACTIVITY_NOTHING,
    Activity.LOADING: control_pb2.ACTIVITY_LOADING,
    Activity.COMPUTING: control_pb2.ACTIVITY_COMPUTING,
    Activity.MEASURING: control_pb2.ACTIVITY_MEASURING,
}


def end_messages(ends: Iterable[WorkerEnd]) -> list[control_pb2.WorkerEnd]:
    """As of now."""
    return [_message(end, time.time()) for end in ends]


def _message(end: WorkerEnd, now_s: float) -> control_pb2.WorkerEnd:
    return control_pb2.WorkerEnd(
        id=end.end_id,
        seconds_ago=max(0.0, now_s - end.ended_s),
        signal_name=end.signal_name,
        exit_code=end.exit_code,
        for_memory=end.for_memory,
        doing=None if end.doing is None else _doing(end.doing),
        log_tail=end.log_tail,
    )


def _doing(doing: Doing) -> control_pb2.Doing:
    return control_pb2.Doing(
        activity=_ACTIVITIES[doing.activity],
        session_id=doing.session_id,
        epoch=doing.epoch,
        layer_start=doing.layer_start,
        layer_end=doing.layer_end,
        frame_number=doing.frame_number,
        n_tokens=doing.n_tokens,
        n_sequences=doing.n_sequences,
        is_prefill=doing.is_prefill,
    )
