# SPDX-License-Identifier: MIT
"""A cluster, and real workers that are its members."""

from collections.abc import Iterator

import pytest

from protos.cluster import Cluster, create_cluster
from protos.secret_file import IDENTITY_VARIABLE
from tests.line.processes import WorkerProcess


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The one that everything which a module's tests start is a member of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IDENTITY_VARIABLE, str(tmp_path_factory.mktemp("identity")))
        yield create_cluster()[0]


@pytest.fixture(scope="module")
def member(cluster: Cluster) -> Iterator[WorkerProcess]:
    """A worker that nobody harms."""
    worker = WorkerProcess("attic")
    yield worker
    worker.stop()
