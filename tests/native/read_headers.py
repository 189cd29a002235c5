# SPDX-License-Identifier: MIT
"""Reads the headers named on its command line, and says of each what that came to: a process of its own, since what is
wrong with a reader of other people's bytes may end it."""

import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from native import ModelFileError, read_layout

_CLAIMED_BYTES = 1 << 50
_HOLE_BYTES = 128 << 20


def _outcome(path: Path, file_bytes: Sequence[int] | None = None) -> str:
    try:
        return read_layout(path, file_bytes).identity
    except ModelFileError as error:
        return f"refused: {error.reason}"


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def main() -> None:
    """A line of JSON for each: what came of it as a file, as the header of a large one, and with a hole behind."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.gguf"
        for path in map(Path, sys.argv[1:]):
            copy.write_bytes(path.read_bytes())
            before_bytes, before_s = _peak_bytes(), time.process_time()
            outcomes = [_outcome(copy), _outcome(copy, [_CLAIMED_BYTES])]
            os.truncate(copy, _HOLE_BYTES)
            outcomes.append(_outcome(copy))
            said = {
                "name": path.stem,
                "outcomes": outcomes,
                "seconds": time.process_time() - before_s,
                "grown_bytes": _peak_bytes() - before_bytes,
            }
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
