# SPDX-License-Identifier: MIT
"""Which cluster the workers of this machine are members of, and where they listen for it: decided by the supervisor,
once, when `caravan worker` starts.
"""

from dataclasses import dataclass

from protos.cluster import Cluster, create_cluster
from protos.joining import OtherClusterError, join
from protos.secret_file import SecretFileError
from worker.errors import IdentityError
from worker.listening import Endpoint

ON_THIS_MACHINE = Endpoint("127.0.0.1", 0)
EVERYWHERE = Endpoint("0.0.0.0", 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where to listen, and what to tell of the cluster; nothing to tell: empty."""

    endpoint: Endpoint
    news: str = ""


def take_stand(endpoint: Endpoint | None, joined: Cluster | None, *, insecure: bool) -> Standing:
    """Joins a cluster, or makes one where it is needed: whoever listens beyond this machine is a member of one.

    Args:
        endpoint: what `--listen` says; None: nothing.
        joined: whose code `--join` has.

    Raises:
        IdentityError: that cannot be.
    """
    try:
        if joined is not None:
            news = f"This computer is now a member of cluster {joined.fingerprint}.\n" if join(joined) else ""
            return Standing(endpoint or EVERYWHERE, news)
        if insecure or (endpoint is not None and endpoint.is_loopback()):
            return Standing(endpoint or ON_THIS_MACHINE)
        cluster, is_new = create_cluster()
    except (SecretFileError, OtherClusterError) as error:
        raise IdentityError(str(error)) from error
    return Standing(endpoint or EVERYWHERE, _welcome(cluster) if is_new else "")


def _welcome(cluster: Cluster) -> str:
    return (
        f"This is a new cluster. On your other computers run:\n\n    caravan worker --join {cluster.code}\n\n"
        "Whoever has this code is a member, so show it to nobody else; `caravan cluster show` tells it again.\n"
    )
