# SPDX-License-Identifier: MIT
"""`caravan completion SHELL`: what a shell reads to complete commands, options and files. Click does the completing."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from coordinator.cli.console import emit
from coordinator.cli.settings import debug_option

_VARIABLE = "_CARAVAN_COMPLETE"
"""Set by the script when it asks `caravan` itself."""

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@debug_option
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a script that has SHELL complete commands, options and their values.

    \b
    caravan completion bash > ~/.local/share/bash-completion/completions/caravan
    caravan completion zsh > ~/.zfunc/_caravan         (with fpath+=~/.zfunc before compinit in ~/.zshrc)
    caravan completion fish > ~/.config/fish/completions/caravan.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click has all of these"
    emit(kind(ctx.find_root().command, {}, "caravan", _VARIABLE).source() + "\n")
