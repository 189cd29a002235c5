# SPDX-License-Identifier: MIT
"""How `caravan top` draws what a line does: rows of text, in colour where the terminal has any. Pure.

In a waterfall each row is a frame, and time goes from left to right, the same for all rows: the number of a worker
while that computes the frame, a point while the frame waits for it, `~` while it is held there, and `-` on a hop.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.text import Text

from coordinator.cli.progress import layers_text
from coordinator.http.schemas.line import FrameInfo, FrameMeansInfo, LimitInfo, LineInfo, LineStatus, SpanInfo
from coordinator.plan import columns

_BAR = 12
"""Characters of a busy bar."""

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
"""Of workers, in turn."""

_MARKS = {"hop": "-", "waiting": ".", "held": "~"}
_NUMBERS = "123456789abcdefghijklmnopqrstuvwxyz"
"""Of workers; those beyond are all the last."""

_SHOWN_S = 1.0
"""Of the last frames."""

_LEAST_ROWS = 2
"""Of a waterfall, however low the terminal."""

_ROWS_BESIDE = 2
"""Of a waterfall, beside its frames: its scale, and an empty one."""

_BROKEN = 1.1
"""Times as much room as its letters that a sentence takes in rows, since words are not broken."""

_HEAD = ("", "worker", "layers", "busy", "", "tokens/s", "ms/decode", "ms/chunk", "queued")


def drawn(status: LineStatus, width: int, height: int) -> list[Text]:
    """Texts for a screen of that size; sentences may wrap, and waterfalls have the rows that these leave."""
    parts = [(_head(status, number), _foot(line)) for number, line in enumerate(status.lines)]
    n_taken = sum(_n_rows(text, width) for head, foot in parts for text in (*head, *foot))
    n_rows = (height - n_taken) // max(1, len(parts)) - _ROWS_BESIDE
    texts: list[Text] = []
    for line, (head, foot) in zip(status.lines, parts, strict=True):
        texts += [*head, *_waterfall(line, width, max(_LEAST_ROWS, n_rows)), *foot]
    return texts


def _head(status: LineStatus, number: int) -> list[Text]:
    line = status.lines[number]
    title = status.model if len(status.lines) == 1 else f"{status.model}, line {number + 1} of {len(status.lines)}"
    share = line.n_reused_tokens / max(1, line.n_prompt_tokens)
    broken = [Text("the line broke: requests wait until others carry on", style="red")] if line.is_suspended else []
    return [
        Text(_printable(title), style="bold"),
        *broken,
        Text(
            f"requests: {line.n_running} running in {line.n_slots} slots, {line.n_waiting} waiting; "
            f"cache: {line.n_reused_tokens} of {line.n_prompt_tokens} prompt tokens ({share:.0%})"
        ),
        Text(f"decode: {line.generated_per_s:.1f} tokens/s in {_means(line.decode)}"),
        Text(f"prompts: {line.prompt_tokens_per_s:.1f} tokens/s in {_means(line.prefill)}"),
        Text(""),
        *_workers(line),
        Text(""),
    ]


def _means(means: FrameMeansInfo) -> str:
    if not means.n_frames:
        return "no frame"
    beside = f"{means.beside_s / means.trip_s:.0%}" if means.trip_s else "0%"
    return (
        f"{means.frames_per_s:.1f} frames/s of {means.mean_batch:.1f} tokens (at most {means.largest_batch}), "
        f"{means.trip_s * 1000:.1f} ms a trip, {beside} of it hops"
    )


def _workers(line: LineInfo) -> Iterator[Text]:
    """A row for each worker, with its bar in its colour."""
    rows = [_HEAD]
    for number, stage in enumerate(line.stages):
        bar = "#" * round(stage.busy_share * _BAR)
        rows.append(
            (
                _number(number),
                _printable(stage.worker),
                f"{stage.layer_start}-{stage.layer_end - 1}",
                bar + "." * max(0, round((stage.busy_share + stage.waiting_share) * _BAR) - len(bar)) + " " * _BAR,
                f"{stage.busy_share:>4.0%}",
                f"{stage.tokens_per_s:>8.1f}",
                f"{stage.decode_frame_s * 1000:>9.1f}",
                f"{stage.prefill_frame_s * 1000:>9.1f}",
                f"{stage.n_queued:>6.1f}",
            )
        )
    cut = [(*row[:3], row[3][:_BAR], *row[4:]) for row in rows]
    for number, row in enumerate(columns(cut)):
        text = Text(row, no_wrap=True, overflow="crop", style="dim" if number == 0 else "")
        if number:
            text.highlight_regex(r"#+", style=_colour(number - 1))
        yield text


def _waterfall(line: LineInfo, width: int, n_rows: int) -> Iterator[Text]:
    """The frames of the last second, a row each; the last ones if there are more."""
    if not line.frames:
        return
    last_s = line.frames[-1].received_s
    frames = [frame for frame in line.frames if frame.received_s > last_s - _SHOWN_S][-n_rows:]
    labels = [f"{_kind(frame)} {frame.n_tokens:>4} " for frame in frames]
    start_s = frames[0].sent_s
    n_columns = max(10, width - max(map(len, labels)) - 1)
    column_s = max(1e-6, (last_s - start_s) / n_columns)
    yield Text(f"last frames, {_scale(column_s)} a character", style="dim")
    for label, frame in zip(labels, frames, strict=True):
        text = Text(label, no_wrap=True, overflow="crop")
        for mark, style in _marks(frame, start_s, column_s, n_columns):
            text.append(mark, style)
        yield text
    yield Text("")


def _kind(frame: FrameInfo) -> str:
    if not frame.n_tokens:
        return "void  "
    return "decode" if frame.is_decode else "prompt"


def _marks(frame: FrameInfo, start_s: float, column_s: float, n_columns: int) -> Iterator[tuple[str, str]]:
    """What the frame does at the middle of each column, up to its end; but computing has a column at least."""
    computing = {int((span.start_s - start_s) / column_s): span for span in frame.spans if span.kind == "computing"}
    spans = iter(frame.spans)
    span: SpanInfo | None = next(spans, None)
    for column in range(n_columns):
        at_s = start_s + (column + 0.5) * column_s
        while span is not None and span.end_s <= at_s:
            span = next(spans, None)
        shown = computing.get(column, span)
        if shown is None:
            return
        if shown is span and at_s < span.start_s:
            yield " ", ""
        elif shown.kind == "computing":
            yield _number(shown.stage), f"bold {_colour(shown.stage)}"
        else:
            yield _MARKS[shown.kind], "dim"


def _foot(line: LineInfo) -> list[Text]:
    return [Text(_printable(line.limit.sentence), style="bold"), *_offer(line.limit)]


def _offer(limit: LimitInfo) -> list[Text]:
    """The faster layer ranges, to be typed where that is possible."""
    if limit.rebalanced is None:
        return []
    if limit.rebalanced.option is not None:
        return [Text(f"  {_printable(limit.rebalanced.option)}", style="green")]
    ranges = ", ".join(
        f"{_printable(stage.worker)} {layers_text(stage.layer_start, stage.layer_end)}"
        for stage in limit.rebalanced.stages
    )
    return [Text(f"  {ranges}", style="green")]


def _n_rows(text: Text, width: int) -> int:
    """Of the screen that a text takes."""
    return 1 if text.no_wrap or len(text) <= width else math.ceil(_BROKEN * len(text) / width)


def printed(texts: Sequence[Text]) -> str:
    """The rows without colour."""
    return "".join(f"{text.plain.rstrip()}\n" for text in texts)


def _number(stage: int) -> str:
    return _NUMBERS[min(stage, len(_NUMBERS) - 1)]


def _colour(stage: int) -> str:
    return _COLOURS[stage % len(_COLOURS)]


def _scale(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.0001 else f"{seconds * 1e6:.0f} µs"


def _printable(text: str) -> str:
    """What a server says may not steer the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)
