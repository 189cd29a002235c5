# SPDX-License-Identifier: MIT
"""A server of models as a process of its own, so that it can be on another host than the test.

    python -m tests.netns.serve MODEL ADDRESS

gives the file in ranges at /model.gguf, and prints a line when it does, until it is ended.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.coordinator.weights.stand_in import FileServer, serving


def main(model: str, host: str) -> None:
    """Serves until it is ended."""
    place = FileServer(files={"/model.gguf": Path(model).read_bytes()})
    with serving(place, host):
        print(place.url, flush=True)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
