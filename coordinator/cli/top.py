# SPDX-License-Identifier: MIT
"""`caravan top`: what the line of a running `caravan serve` does, live on a terminal, and what limits its speed."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from coordinator.cli.console import emit
from coordinator.cli.exits import StartError
from coordinator.cli.interrupts import interruptible
from coordinator.cli.line_view import drawn, printed
from coordinator.cli.options import option
from coordinator.cli.server_options import api_key_file_option, key_in, server_address
from coordinator.cli.settings import debug_option
from coordinator.frame_log import KEPT_S
from coordinator.http.line_client import LineClient, NoLineError
from coordinator.waterfall import LEAST_WINDOW_S, WINDOW_S

_EVERY_S = 1.0
"""A person reads no faster, and the server sums up all frames of the window for each."""

_ROWS = 30
"""Of one snapshot without a screen."""


@click.command("top")
@option("--url", default="http://127.0.0.1:8080", metavar="URL", help="Where caravan serve listens.")
@api_key_file_option
@option(
    "--window",
    "window_s",
    default=WINDOW_S,
    type=click.FloatRange(LEAST_WINDOW_S, KEPT_S),
    metavar="SECONDS",
    help="Figures are of the last so many seconds.",
)
@option("--once", is_flag=True, help="One snapshot, also on a terminal.")
@option("--json", "as_json", is_flag=True, help="Print one snapshot as JSON.")
@debug_option
def command(url: str, api_key_file: Path | None, window_s: float, once: bool, as_json: bool) -> None:
    """Show what a served model's line does: its workers, requests and last frames, and what limits its speed.

    Live on a terminal, until Ctrl-C; one snapshot anywhere else.

    \b
    caravan top --url http://127.0.0.1:8080
    """  # fmt: skip
    client = LineClient(server_address("--url", url, key_in(api_key_file)))
    with interruptible():
        try:
            status = client.ask(window_s)
        except NoLineError as error:
            raise StartError(f"{url} {error}") from None
        if as_json:
            emit(status.model_dump_json(indent=2) + "\n")
        elif once or not sys.stdout.isatty():
            emit(printed(drawn(status, shutil.get_terminal_size().columns, _ROWS)))
        else:
            _watch(client, window_s)


def _watch(client: LineClient, window_s: float) -> None:
    """On a screen of its own, which the terminal forgets when this ends, however it ends."""
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        texts: list[Text] = []
        while True:
            try:
                texts = drawn(client.ask(window_s), console.width, console.height)
                told: list[Text] = []
            except NoLineError as error:
                told = [Text(f"{client.url} {error}", style="bold red")]
            live.update(Group(*told, *texts), refresh=True)
            time.sleep(_EVERY_S)
