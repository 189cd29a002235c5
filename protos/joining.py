# SPDX-License-Identifier: MIT
"""`--join CODE`, as worker's and coordinator's commands have it, and what joining does."""

from __future__ import annotations

import sys

import click

from protos.cluster import Cluster, keep_cluster, load_cluster
from protos.join_code import JoinCodeError
from protos.secret_file import SecretFileError

ASK = "-"
"""Instead of a code: it is asked for, or read from stdin, so that it stands in no list of processes."""


class JoinCode(click.ParamType[Cluster]):
    """A join code as a command line has it."""

    name = "CODE"

    def convert(self, value: str | Cluster, param: click.Parameter | None, ctx: click.Context | None) -> Cluster:
        if isinstance(value, Cluster):
            return value
        try:
            return Cluster.of_code(_asked() if value == ASK else value)
        except JoinCodeError as error:
            self.fail(str(error), param, ctx)


class OtherClusterError(Exception):
    """This machine is a member of another cluster."""


def join(cluster: Cluster) -> bool:
    """Makes this machine a member, unless it is; whether it was not.

    Raises:
        OtherClusterError: it is one of another cluster.
        SecretFileError: the file cannot be used.
    """
    known = load_cluster()
    if known == cluster:
        return False
    if known is not None:
        raise OtherClusterError(
            f"this computer is a member of cluster {known.fingerprint} already, and the code is that of"
            f" {cluster.fingerprint}: leave the first with `caravan cluster leave`"
        )
    try:
        keep_cluster(cluster, replace=False)
    except FileExistsError:
        raise SecretFileError("this computer joined another cluster at the same moment: try again") from None
    return True


def _asked() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Join code", hide_input=True, err=True))
    return sys.stdin.readline()
