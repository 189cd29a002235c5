# SPDX-License-Identifier: MIT
"""`caravan keys`: the API keys of `caravan serve`. Only hashes of them are kept, so each is shown once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict

import click

from coordinator.cli.console import emit, say
from coordinator.cli.exits import UserError
from coordinator.cli.options import option
from coordinator.cli.settings import debug_option
from coordinator.http.api_keys import add_key, known_keys, remove_key
from coordinator.plan import columns
from protos.secret_file import SecretFileError

_EPILOG = """\b
caravan keys add phone                    prints a key, this once
caravan keys remove phone                 it is worth nothing from now on, also where `caravan serve` runs
"""


@click.group("keys", epilog=_EPILOG)
def command() -> None:
    """Make and remove the API keys that clients of `caravan serve` need."""


@command.command("add")
@click.argument("name")
@debug_option
def add(name: str) -> None:
    """Make a key, called NAME, and print it."""
    with _told():
        emit(add_key(name) + "\n")
    say("it is kept nowhere: clients send it as `Authorization: Bearer KEY`, OpenAI's as their api_key")


@command.command("list")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def list_(as_json: bool) -> None:
    """List the names of the keys, and when each was made."""
    with _told():
        keys = known_keys()
    if as_json:
        emit(json.dumps([asdict(key) for key in keys], indent=2) + "\n")
    elif keys:
        emit("".join(f"{line}\n" for line in columns([("NAME", "MADE"), *((key.name, key.made) for key in keys)])))
    else:
        say("there are no keys: `caravan keys add NAME`")


@command.command("remove")
@click.argument("name")
@debug_option
def remove(name: str) -> None:
    """Have the key called NAME be none any more."""
    with _told():
        remove_key(name)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (SecretFileError, ValueError) as error:
        raise UserError(str(error)) from None
