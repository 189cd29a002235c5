# SPDX-License-Identifier: MIT
"""What flags of other tools are called here: people type what they are used to, and are told in one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import click

_OURS = {
    # llama.cpp's (common/arg.cpp), which others have taken over
    "--host": "--listen",
    "--port": "--listen",
    "--ctx-size": "--context",
    "--n-predict": "--max-tokens",
    "--predict": "--max-tokens",
    "--batch-size": "--batch",
    "--ubatch-size": "--ubatch",
    "--temp": "--temperature",
    "--rpc": "--worker",
    "--tensor-split": "--layers",
    "-ts": "--layers",
    "--n-gpu-layers": "--gpu-layers",
    "-ngl": "--gpu-layers",
    "--main-gpu": "--main",
    "-mg": "--main",
    "--split-mode": "--split",
    "-sm": "--split",
    "--cache-type-k": "--kv-type",
    "-ctk": "--kv-type",
    "--cache-type-v": "--kv-type",
    "-ctv": "--kv-type",
    "--flash-attn": "--flash-attention",
    "-fa": "--flash-attention",
    "--model-draft": "--draft",
    "-md": "--draft",
    "--spec-draft-model": "--draft",
    "-np": "--parallel",
    "--n-parallel": "--parallel",
    "--embedding": "--embeddings",
    "--n-cpu-moe": "--ram",
    "-ncmoe": "--ram",
    # llama-bench's
    "--n-prompt": "--prompt-tokens",
    "--n-gen": "--gen-tokens",
    # vLLM's
    "--max-model-len": "--context",
    "--max-num-seqs": "--parallel",
    "--served-model-name": "--alias",
}
"""By what was typed. Flags that mean the same as ours by another name, or are about the same."""

_WITHOUT_FLAG = {"-m": "MODEL", "--model": "MODEL", "-p": "PROMPT", "--prompt": "PROMPT"}
"""Here these are arguments."""


def hint(error: click.NoSuchOption, typed: Sequence[str]) -> str | None:
    """A sentence for a flag that is called otherwise here; None if nobody knows it.

    Args:
        typed: The command line: click takes -ngl for -n, -g and -l.
    """
    command = None if error.ctx is None else error.ctx.command
    if command is None:
        return None
    flags = [error.option_name, *(word.split("=")[0] for word in typed if word.startswith(error.option_name))]
    for flag in flags:
        ours, argument = _OURS.get(flag), _WITHOUT_FLAG.get(flag)
        option = next((each for each in command.params if ours in each.opts), None)
        if isinstance(option, click.Option):
            meta = option.make_metavar(click.Context(command))
            return f"there is no {flag}: here it is {ours} {meta} (caravan {command.name} --help)"
        if ours == "--ram" or ours == "--split":
            return f"there is no {flag}: where experts and cards go is said where the worker is, caravan worker {ours}"
        if argument is not None and any(argument.lower() == each.name for each in command.params):
            return f"there is no {flag}: {argument} is given without a flag (caravan {command.name} --help)"
    return None
