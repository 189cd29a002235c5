# SPDX-License-Identifier: MIT
"""`caravan embed MODEL TEXT...`: a vector for each text, as JSON lines on stdout."""

from __future__ import annotations

import json
import sys

import click

from coordinator.cli.console import emit
from coordinator.cli.exits import UserError
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import open_arguments, opened
from coordinator.cli.options import LineOptions, json_progress_option, line_options, local_option
from coordinator.cli.settings import debug_option


@click.command("embed")
@click.argument("model")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@json_progress_option
@local_option
@line_options
@debug_option
def command(model: str, texts: tuple[str, ...], json_progress: bool, local: int, line: LineOptions) -> None:
    """Print what MODEL makes of each TEXT: a line with a list of numbers, divided by its length.

    MODEL is named as for caravan run, and may be any that reads text. Without a TEXT each line of standard input is
    one. With --pooling none a text's line is a list of lists, one for each token.

    \b
    caravan embed nomic-embed-text-v1.5.Q8_0.gguf "search_query: what is a llama"
    caravan embed model.gguf --pooling mean < texts.txt > vectors.jsonl
    """
    inputs = texts or _read_lines()
    arguments = open_arguments(line) | {"local_workers": local, "embeddings": True}
    with interruptible(), opened(model, json_progress=json_progress, **arguments) as mesh:
        for vector in mesh.embed(inputs).vectors:
            emit(json.dumps(vector.tolist()) + "\n")


def _read_lines() -> tuple[str, ...]:
    try:
        return tuple(sys.stdin.buffer.read().decode("utf-8").splitlines())
    except UnicodeDecodeError:
        raise UserError("standard input is not UTF-8 text: convert it first, for example with iconv") from None
