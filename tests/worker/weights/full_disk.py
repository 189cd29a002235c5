# SPDX-License-Identifier: MIT
"""A fetch onto a disk that fills up: a program of its own, since the disk is a small one in a mount namespace.

    python -m tests.worker.weights.full_disk SMALL_DISK MODEL OTHER_MODEL

The disk holds either model, not both. Says what it saw as JSON.
"""

import json
import sys
from pathlib import Path

from tests.worker.weights.fetching import Source
from worker.errors import DiskFullError
from worker.weights import disk
from worker.weights.store import ModelStore


def main() -> None:
    """Fetches the first, then the second in its place, then the first beside the second, which cannot be."""
    folder = Path(sys.argv[1])
    first, second = Source(Path(sys.argv[2])), Source(Path(sys.argv[3]))
    store = ModelStore(folder / "models", None)
    seen: dict[str, object] = {"free_bytes": disk.free_bytes(folder)}
    first.fetch(store.create(first.layout.identity, first.parts, first.chunks()))
    model = store.create(second.layout.identity, second.parts, second.chunks())
    with model.in_use():
        second.fetch(model)
        seen["first_left"] = store.find(first.layout.identity) is None
        seen["second_right"] = model.layout.path.read_bytes() == second.data[0]
        again = store.create(first.layout.identity, first.parts, first.chunks())
        try:
            first.fetch(again)
        except DiskFullError as error:
            seen["error"] = str(error)
            seen["needed_bytes"], seen["error_free_bytes"] = error.needed_bytes, error.free_bytes
        seen["n_held"], seen["wrong"] = len(again.held()), [*first.wrong(again), *second.wrong(model)]
    store.remove(second.layout.identity)
    first.fetch(again, *(set(range(first.n_tensors)) - again.held()))
    seen["first_right"] = again.layout.path.read_bytes() == first.data[0]
    store.flush()
    store.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
