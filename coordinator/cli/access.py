# SPDX-License-Identifier: MIT
"""The options of `caravan serve` that say who may ask, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from coordinator.cli.console import say
from coordinator.cli.exits import UserError
from coordinator.cli.options import option, packed_options
from coordinator.http.access import Access
from coordinator.http.api_keys import GivenKeys, Keys, KnownKeys, add_key, known_keys, read_keys
from coordinator.http.server import ListenAddress
from protos.cluster import create_cluster
from protos.secret_file import SecretFileError

Command = TypeVar("Command", bound=Callable[..., Any])

_FIRST_KEY = "first"


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """As they were typed."""

    insecure: bool
    require_key: bool
    api_key_file: Path | None
    allowed_host: tuple[str, ...]
    cors: tuple[str, ...]


class _Origin(click.ParamType[str]):
    name = "ORIGIN"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        parts = urlsplit(value)
        if value != "*" and (parts.scheme not in ("http", "https") or value != f"{parts.scheme}://{parts.netloc}"):
            self.fail(f"{value!r} is no web page's origin, such as https://chat.example.org", param, ctx)
        return value.lower()


def access_options(command: Command) -> Command:
    """Adds the options of AccessOptions; the command gets them as `access`."""

    options = [
        click.option("--insecure", is_flag=True, allow_from_autoenv=False,
                     help="Listen beyond this machine without API keys: anyone who reaches the port may use it."),
        option("--require-key", is_flag=True,
               help="Want an API key on this machine too; beyond it one is always wanted. `caravan keys` makes them."),
        option("--api-key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
               help="Want one of the API keys in this file, a line each, instead of those of `caravan keys`."),
        option("--allowed-host", multiple=True, metavar="NAME", show_default=False,
               help="A further name in the Host header under which requests may come, as a proxy's; may be given"
               " several times."),
        option("--cors", multiple=True, type=_Origin(), show_default=False,
               help="Let web pages of this origin ask from a browser, or of any: *; may be given several times."),
    ]  # fmt: skip
    return packed_options(options, AccessOptions, "access", command)  # type: ignore[return-value]


def access_of(listen: ListenAddress, options: AccessOptions, *, has_cluster: bool) -> Access:
    """Who may ask. Beyond this machine a first key is made where there is none, and told; and a cluster.

    Args:
        has_cluster: Whether this server's workers are to be of one.

    Raises:
        UsageError: The options contradict each other.
        UserError: A file cannot be used.
    """
    if options.insecure and (options.require_key or options.api_key_file is not None):
        raise click.UsageError("--insecure is for servers without API keys: leave it out, or the keys")
    try:
        keys = _keys(listen, options)
        if has_cluster and not (listen.is_loopback or options.insecure):
            _tell_new_cluster()
    except (SecretFileError, ValueError, OSError) as error:
        raise UserError(str(error)) from None
    if "*" in options.cors and keys is None:
        raise click.UsageError("--cors '*' without API keys lets every web page use the model: add --require-key")
    names = (*options.allowed_host, *(() if listen.is_loopback else (listen.host,)))
    return Access(listen.is_loopback, names, keys, options.cors)


def _keys(listen: ListenAddress, options: AccessOptions) -> Keys | None:
    if options.api_key_file is not None:
        return GivenKeys(read_keys(options.api_key_file))
    if options.insecure or (listen.is_loopback and not options.require_key):
        return None
    if not known_keys():
        say(
            f"clients need this API key; it is shown this once, and `caravan keys` makes others:\n{add_key(_FIRST_KEY)}"
        )
    return KnownKeys()


def _tell_new_cluster() -> None:
    cluster, is_new = create_cluster()
    if is_new:
        say(f"this is a new cluster; for more workers run on other computers\ncaravan worker --join {cluster.code}")
