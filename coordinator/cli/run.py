# SPDX-License-Identifier: MIT
"""`caravan run MODEL PROMPT`: what the model says, on stdout as it comes; all else on stderr."""

from __future__ import annotations

import sys

import click
from click.core import ParameterSource

from coordinator.cli.exits import UserError
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import note_speed, open_arguments, opened, print_text, tell_speed
from coordinator.cli.options import (
    LineOptions,
    SamplingOptions,
    json_progress_option,
    line_options,
    local_option,
    model_argument,
    option,
    sampling_options,
)
from coordinator.cli.settings import debug_option, source_of
from coordinator.generation import Generation
from coordinator.mesh import Mesh


@click.command("run")
@model_argument()
@click.argument("prompt")
@option("--chat", is_flag=True, help="Give the prompt to the model's chat template, as a user's message.")
@option("--system", metavar="TEXT", help="With --chat: the system's message before it.")
@option("--stats", is_flag=True, help="Tell tokens per second and the time to the first token.")
@json_progress_option
@local_option
@line_options
@sampling_options
@debug_option
def command(
    model: str,
    prompt: str,
    chat: bool,
    system: str | None,
    stats: bool,
    json_progress: bool,
    local: int,
    line: LineOptions,
    sampling: SamplingOptions,
) -> None:
    """Print what MODEL says to PROMPT.

    MODEL is a GGUF file or its https:// address, hf:OWNER/REPO[:QUANT], ollama:NAME, or "demo"; PROMPT is text, or - to
    read it from standard input. Workers on the network are found by themselves; where there are none, one is started
    on this machine.

    \b
    caravan run model.gguf "Once upon a time" --temperature 0 --max-tokens 100
    caravan run hf:ggml-org/Qwen3-8B-GGUF:Q4_K_M --chat "Why is the sky blue?"
    """
    if system is not None and not chat and source_of("system") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--system needs --chat")
    if prompt == "-":
        prompt = _read_prompt()
    arguments = open_arguments(line) | {"local_workers": local}
    with interruptible(), opened(model, json_progress=json_progress, **arguments) as mesh:
        generation = _begin(mesh, prompt, sampling, chat=chat, system=system)
        print_text(generation)
        note_speed(mesh, generation)
        if stats:
            tell_speed(generation)


def _begin(mesh: Mesh, prompt: str, sampling: SamplingOptions, *, chat: bool, system: str | None) -> Generation:
    if not chat:
        return mesh.generate(prompt, sampling=sampling.params, max_tokens=sampling.max_tokens, stop=sampling.stop)
    messages = [{"role": "user", "content": prompt}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return mesh.chat(messages, sampling=sampling.params, max_tokens=sampling.max_tokens, stop=sampling.stop)


def _read_prompt() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise UserError("standard input is not UTF-8 text: convert it first, for example with iconv") from None
