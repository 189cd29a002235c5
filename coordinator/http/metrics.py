# SPDX-License-Identifier: MIT
"""What `/metrics` tells: each metric with its name, kind, labels and meaning, and where its values come from. Pure;
`exposition` writes it in Prometheus' form, `scripts/metrics_reference` makes the table of docs/metrics.md of it.

Names and units by Prometheus' conventions: base units, and what only grows ends in `_total`; shares and rates are for
whoever asks Prometheus (a stage's busy share is the rate of its busy seconds).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from coordinator.events import LineChange
from coordinator.line_counts import LineCounts
from coordinator.plan import Stage
from coordinator.tally import Histogram, StageTally

Value = float | Histogram
Sample = tuple[tuple[str, ...], Value]
"""The values of a metric's labels, in their order, and its own."""


class Kind(str, Enum):
    """Prometheus' kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class ModelCounts:
    """A model at one moment.

    Attributes:
        name: For clients.
        changes: Of its lines and of itself, by kind.
        pause_s: For which there was no line, of all that carried on.
        lines: None of them while it is not loaded.
    """

    name: str
    changes: Mapping[LineChange, int]
    pause_s: float
    is_loaded: bool
    lines: tuple[LineCounts, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the metrics are read from.

    Attributes:
        build: Of llama.cpp.
        is_ready: Whether requests are answered.
        answers: By route and status.
    """

    build: str
    is_ready: bool
    answers: Mapping[tuple[str, str], int]
    models: Sequence[ModelCounts]

    @property
    def lines(self) -> Iterator[tuple[str, str, LineCounts]]:
        """All lines, each with its model's name and its number."""
        for model in self.models:
            for number, line in enumerate(model.lines):
                yield model.name, str(number), line


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `read` gives its samples."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Snapshot], Iterable[Sample]]


def _one(value: Callable[[Snapshot], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda snapshot: (((), value(snapshot)),)


def _by_model(value: Callable[[ModelCounts], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    return lambda snapshot: (((model.name,), value(model)) for model in snapshot.models)


def _by_line(value: Callable[[LineCounts], Value]) -> Callable[[Snapshot], Iterable[Sample]]:
    def read(snapshot: Snapshot) -> Iterator[Sample]:
        for model, number, line in snapshot.lines:
            yield (model, number), value(line)

    return read


def _by_worker(value: Callable[[StageTally], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    def read(snapshot: Snapshot) -> Iterator[Sample]:
        for model, number, line in snapshot.lines:
            for worker, tally in line.tally.stages.items():
                yield (model, number, worker), value(tally)

    return read


def _by_stage(value: Callable[[Stage], float]) -> Callable[[Snapshot], Iterable[Sample]]:
    def read(snapshot: Snapshot) -> Iterator[Sample]:
        for model, number, line in snapshot.lines:
            for stage in line.plan.stages:
                yield (model, number, stage.worker), value(stage)

    return read


def _info(snapshot: Snapshot) -> Iterable[Sample]:
    return (((model.name, snapshot.build), 1.0) for model in snapshot.models)


def _answers(snapshot: Snapshot) -> Iterable[Sample]:
    return ((key, float(count)) for key, count in snapshot.answers.items())


def _changes(snapshot: Snapshot) -> Iterator[Sample]:
    for model in snapshot.models:
        for change in LineChange:
            yield (model.name, str(change)), float(model.changes.get(change, 0))


def _ended(snapshot: Snapshot) -> Iterator[Sample]:
    for model, number, line in snapshot.lines:
        for reason, count in line.tally.ended.items():
            yield (model, number, str(reason)), float(count)


def _frames(snapshot: Snapshot) -> Iterator[Sample]:
    for model, number, line in snapshot.lines:
        yield (model, number, "decode"), float(line.tally.n_decode_frames)
        yield (model, number, "prefill"), float(line.tally.n_prefill_frames)


def _memory(snapshot: Snapshot) -> Iterator[Sample]:
    for model, number, line in snapshot.lines:
        for stage in line.plan.stages:
            memory = stage.memory
            kinds = (("weights", memory.weights_bytes), ("kv", memory.kv_bytes), ("compute", memory.compute_bytes))
            for kind, n_bytes in kinds:
                yield (model, number, stage.worker, kind), float(n_bytes)


_MODEL = ("model",)
_LINE = ("model", "line")
_WORKER = ("model", "line", "worker")

METRICS: tuple[Metric, ...] = (
    Metric("caravan_info", Kind.GAUGE, ("model", "llama_cpp"), "1; a model's name, and the build of llama.cpp.", _info),
    Metric(
        "caravan_ready",
        Kind.GAUGE,
        (),
        "1 if requests are answered, 0 while it loads, stops, or has failed.",
        _one(lambda snapshot: snapshot.is_ready),
    ),
    Metric(
        "caravan_model_loaded",
        Kind.GAUGE,
        _MODEL,
        "1 if it is loaded, 0 if a request to it has it loaded first.",
        _by_model(lambda model: model.is_loaded),
    ),
    Metric(
        "caravan_http_requests_total",
        Kind.COUNTER,
        ("route", "status"),
        "Requests whose answer began; `route` is its pattern, `other` where there is none.",
        _answers,
    ),
    Metric(
        "caravan_line_events_total",
        Kind.COUNTER,
        ("model", "change"),
        "What became of lines and models: `lost` is a break, `resumed` a recovery, `joined` a worker taken in.",
        _changes,
    ),
    Metric(
        "caravan_line_pause_seconds_total",
        Kind.COUNTER,
        _MODEL,
        "Time without a line, of all lines that carried on.",
        _by_model(lambda model: model.pause_s),
    ),
    Metric(
        "caravan_line_up",
        Kind.GAUGE,
        _LINE,
        "1 if the line stands, 0 if it broke and no other carries on yet.",
        _by_line(lambda line: not line.is_suspended),
    ),
    Metric("caravan_slots", Kind.GAUGE, _LINE, "Sequences at a time.", _by_line(lambda line: line.n_slots)),
    Metric(
        "caravan_requests_running",
        Kind.GAUGE,
        _LINE,
        "Requests that have a slot.",
        _by_line(lambda line: line.n_running),
    ),
    Metric(
        "caravan_requests_waiting",
        Kind.GAUGE,
        _LINE,
        "Requests in the queue.",
        _by_line(lambda line: line.n_waiting),
    ),
    Metric(
        "caravan_requests_paused",
        Kind.GAUGE,
        _LINE,
        "Of those with a slot, those whose streams are not read.",
        _by_line(lambda line: line.n_paused),
    ),
    Metric(
        "caravan_requests_ended_total",
        Kind.COUNTER,
        ("model", "line", "reason"),
        "Generations that ended: `stop`, `length`, `cancelled`, `failed`. A request has one for each of its answers.",
        _ended,
    ),
    Metric(
        "caravan_generated_tokens_total",
        Kind.COUNTER,
        _LINE,
        "Tokens that requests got.",
        _by_line(lambda line: line.tally.n_generated),
    ),
    Metric(
        "caravan_prompt_tokens_total",
        Kind.COUNTER,
        _LINE,
        "Tokens of the prompts of requests that were begun.",
        _by_line(lambda line: line.n_prompt_tokens),
    ),
    Metric(
        "caravan_prompt_reused_tokens_total",
        Kind.COUNTER,
        _LINE,
        "Of these, those that were in the cache.",
        _by_line(lambda line: line.n_reused_tokens),
    ),
    Metric(
        "caravan_guessed_tokens_total",
        Kind.COUNTER,
        _LINE,
        "Tokens sent down the line as guesses.",
        _by_line(lambda line: line.tally.n_guesses),
    ),
    Metric(
        "caravan_guessed_tokens_accepted_total",
        Kind.COUNTER,
        _LINE,
        "Of these, those that turned out right.",
        _by_line(lambda line: line.tally.n_guesses_right),
    ),
    Metric(
        "caravan_queue_seconds",
        Kind.HISTOGRAM,
        _LINE,
        "From a request's submission to its first frame.",
        _by_line(lambda line: line.tally.queued),
    ),
    Metric(
        "caravan_time_to_first_token_seconds",
        Kind.HISTOGRAM,
        _LINE,
        "From a request's submission to its first token.",
        _by_line(lambda line: line.tally.first_token),
    ),
    Metric(
        "caravan_time_per_token_seconds",
        Kind.HISTOGRAM,
        _LINE,
        "From each token of a request to the next; 0 between tokens that came with one frame, as guesses do.",
        _by_line(lambda line: line.tally.next_token),
    ),
    Metric(
        "caravan_frames_total",
        Kind.COUNTER,
        ("model", "line", "kind"),
        "Frames that came back: `decode`, and `prefill` for pieces of prompts.",
        _frames,
    ),
    Metric(
        "caravan_frames_in_flight",
        Kind.GAUGE,
        _LINE,
        "Frames in the line now.",
        _by_line(lambda line: line.n_in_flight),
    ),
    Metric(
        "caravan_stage_layers",
        Kind.GAUGE,
        _WORKER,
        "Layers of a worker of the line.",
        _by_stage(lambda stage: len(stage.layers)),
    ),
    Metric(
        "caravan_stage_memory_bytes",
        Kind.GAUGE,
        ("model", "line", "worker", "kind"),
        "What its stage takes: `weights`, `kv`, `compute`.",
        _memory,
    ),
    Metric(
        "caravan_stage_busy_seconds_total",
        Kind.COUNTER,
        _WORKER,
        "Time in which it computed; the rate is its busy share.",
        _by_worker(lambda tally: tally.busy_s),
    ),
    Metric(
        "caravan_stage_waiting_seconds_total",
        Kind.COUNTER,
        _WORKER,
        "Time that frames waited for it, summed over the frames; the rate is the length of its queue.",
        _by_worker(lambda tally: tally.waiting_s),
    ),
    Metric(
        "caravan_stage_frames_total",
        Kind.COUNTER,
        _WORKER,
        "Frames that went through it.",
        _by_worker(lambda tally: tally.n_frames),
    ),
    Metric(
        "caravan_stage_tokens_total",
        Kind.COUNTER,
        _WORKER,
        "Tokens in the batches of these frames.",
        _by_worker(lambda tally: tally.n_tokens),
    ),
    Metric(
        "caravan_stage_sent_bytes_total",
        Kind.COUNTER,
        _WORKER,
        "Hidden state handed to the next worker; 0 of the last one, which sends tokens.",
        _by_worker(lambda tally: tally.sent_bytes),
    ),
)
