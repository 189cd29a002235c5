# SPDX-License-Identifier: MIT
"""How a command is told which server to ask, and with which API key. For `top` and `chat`."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.cli.exits import UserError
from coordinator.cli.options import option
from coordinator.http.api_keys import read_keys
from coordinator.http.server_address import ServerAddress

api_key_file_option = option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the server wants an API key: a file whose first line is one.",
)


def key_in(file: Path | None) -> str | None:
    """The first key of it.

    Raises:
        UserError: It has none, or cannot be read.
    """
    try:
        return None if file is None else read_keys(file)[0]
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None


def server_address(option_name: str, url: str, key: str | None) -> ServerAddress:
    """Where that option says the server is.

    Raises:
        click.UsageError: It is no address.
    """
    try:
        return ServerAddress.parse(url, key)
    except ValueError as error:
        raise click.UsageError(f"{option_name}: {error}") from None
