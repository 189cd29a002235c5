# SPDX-License-Identifier: MIT
"""`caravan cluster`: which computers are one cluster: made, joined, shown, left, and made anew without somebody."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from coordinator.cli.console import emit, say
from coordinator.cli.exits import UserError
from coordinator.cli.options import option
from coordinator.cli.settings import debug_option
from coordinator.membership import Member, known_members
from coordinator.plan import columns
from protos.cluster import (
    Cluster,
    cluster_path,
    create_cluster,
    forget_cluster,
    keep_cluster,
    load_cluster,
)
from protos.joining import JoinCode, OtherClusterError, join
from protos.secret_file import SecretFileError

_EPILOG = """\b
caravan cluster create                    on the first computer; prints a join code (so does `caravan worker`)
caravan cluster join CODE                 on the others, once
caravan cluster expel attic               a new code, which attic does not have
"""


@click.group("cluster", epilog=_EPILOG)
def command() -> None:
    """See and change which computers are one cluster: they take each other's commands, and nobody else's."""


@command.command("create")
@debug_option
def create() -> None:
    """Make a cluster with this computer in it, and print its join code."""
    with _told():
        cluster, is_new = create_cluster()
    if not is_new:
        raise UserError(f"this computer is a member of cluster {cluster.fingerprint} already; `caravan cluster show`")
    _tell_code(cluster)


@command.command("join")
@click.argument("cluster", metavar="CODE", type=JoinCode())
@click.option("--replace", is_flag=True, help="Leave the cluster that this computer is in, if it is another one.")
@debug_option
def join_(cluster: Cluster, replace: bool) -> None:
    """Become a member of the cluster with this join code; -: ask for it, or read it from stdin."""
    with _told():
        if replace:
            keep_cluster(cluster)
        elif not join(cluster):
            say(f"this computer was a member of cluster {cluster.fingerprint} already")
            return
    say(f"this computer is now a member of cluster {cluster.fingerprint}")


@command.command("show")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def show(as_json: bool) -> None:
    """Show the cluster of this computer: its fingerprint, its join code, and which workers of it were met from here."""
    cluster = _own()
    members = known_members(cluster.fingerprint)
    if as_json:
        told = {"fingerprint": cluster.fingerprint, "code": cluster.code, "members": list(map(asdict, members))}
        emit(json.dumps(told, indent=2) + "\n")
        return
    emit(f"fingerprint  {cluster.fingerprint}\njoin code    {cluster.code}\nkept in      {cluster_path()}\n")
    if members:
        emit("\n" + _table(members))


@command.command("rotate")
@debug_option
def rotate() -> None:
    """Make the cluster anew, with another code: the old one, and every certificate made with it, is worth nothing."""
    _renew(_own(), known_members(_own().fingerprint))


@command.command("expel")
@click.argument("name")
@debug_option
def expel(name: str) -> None:
    """Make the cluster anew without NAME, a worker or a computer, which does not get the new code.

    All others have to join again: whoever has the old code could pass for any of them, so it cannot be taken from one
    alone.
    """
    cluster = _own()
    members = known_members(cluster.fingerprint)
    expelled = [member for member in members if name in (member.name, member.host_name)]
    if not expelled:
        there = ", ".join(member.name for member in members) or "nobody yet"
        raise UserError(f"no worker or computer of that name was met: {there}; `caravan nodes` looks again")
    hosts = {member.host_name for member in expelled}
    _renew(cluster, [member for member in members if member.host_name not in hosts])


@command.command("leave")
@debug_option
def leave() -> None:
    """Forget the cluster of this computer; workers that run here for it end."""
    cluster = _own()
    with _told():
        forget_cluster()
    say(f"this computer is no member of cluster {cluster.fingerprint} any more")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (SecretFileError, OtherClusterError) as error:
        raise UserError(str(error)) from None


def _own() -> Cluster:
    with _told():
        cluster = load_cluster()
    if cluster is None:
        raise UserError("this computer is a member of no cluster: `caravan cluster create`, or `join CODE`")
    return cluster


def _renew(before: Cluster, others: Sequence[Member]) -> None:
    cluster = Cluster.new()
    with _told():
        keep_cluster(cluster)
    say(f"cluster {before.fingerprint} is no more; workers of this computer start again in {cluster.fingerprint}")
    hosts = sorted({member.host_name for member in others})
    if hosts:
        say(f"until they join again these do not take part: {', '.join(hosts)}; on each of them run")
    else:
        say("on every other computer that is to stay run")
    emit(f"caravan cluster join --replace {cluster.code}\n")
    say("and start `caravan serve` again where it runs")


def _tell_code(cluster: Cluster) -> None:
    say(f"this computer is now in a new cluster, {cluster.fingerprint}; on your other computers run")
    emit(f"caravan worker --join {cluster.code}\n")


def _table(members: Sequence[Member]) -> str:
    rows = [("WORKER", "HOST", "ADDRESS", "LAST MET")]
    rows += [(member.name, member.host_name, member.address, member.seen) for member in members]
    return "".join(f"{line}\n" for line in columns(rows))
