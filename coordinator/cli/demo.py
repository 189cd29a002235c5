# SPDX-License-Identifier: MIT
"""`caravan demo`: two workers of its own on loopback, the demo model over both, and a story through them."""

from __future__ import annotations

import secrets

import click

from coordinator.cli.console import say
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line import note_speed, opened, print_text, tell_speed
from coordinator.cli.options import option
from coordinator.cli.settings import debug_option
from native import SamplingParams

_N_WORKERS = 2
_MAX_TOKENS = 400
"""A little story is shorter; one that does not end is ended here."""
_CONTEXT = 1024
_DEFAULT_PROMPT = "Tell me a story about a llama, a lantern and a storm."


@click.command("demo")
@click.argument("prompt", default=_DEFAULT_PROMPT)
@option("--temperature", default=0.5, type=click.FloatRange(0), metavar="X", help="0: always the likeliest token.")
@option(
    "--seed",
    type=click.IntRange(0, 0xFFFF_FFFF),
    metavar="N",
    help="The same seed gives the same story.  [default: random]",
)
@debug_option
def command(prompt: str, temperature: float, seed: int | None) -> None:
    """Print a story through two worker processes on this machine.

    The model is a small one that ships with caravan. Other workers on the network are left alone.

    \b
    caravan demo
    caravan demo "a story about a storm" --seed 7
    """
    params = SamplingParams(temperature=temperature, seed=secrets.randbits(32) if seed is None else seed)
    with (
        interruptible(),
        opened(
            "demo",
            starting=f"starting {_N_WORKERS} workers on this machine",
            discover=False,
            local_workers=_N_WORKERS,
            parallel=1,
            context=_CONTEXT,
        ) as mesh,
    ):
        say(f"> {prompt}", style="dim")
        generation = mesh.chat([{"role": "user", "content": prompt}], sampling=params, max_tokens=_MAX_TOKENS)
        print_text(generation)
        note_speed(mesh, generation)
        tell_speed(generation)
    say("Next, your own model over your own computers: start `caravan worker` on each of them, then")
    say('    caravan run model.gguf "Once upon a time"')
