# SPDX-License-Identifier: MIT
"""Benchmarks on disk, so that a device is measured once: a small JSON file per run. Called on gRPC's threads to find
one, on the loading thread to keep one.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from protos.cache_folder import CACHE_VARIABLE, cache_folder, write_whole
from worker.timing import Point

_LOG = logging.getLogger(__name__)


def benchmark_folder() -> Path:
    """Where benchmarks are kept; it need not exist."""
    return cache_folder() / "benchmarks"


class BenchmarkStore:
    """Points by the key of their run. Losing one costs a measurement, so no trouble with a file is an error."""

    def __init__(self, folder: Path) -> None:
        """`folder` is made when there is something to keep."""
        self._folder = folder

    def find(self, key: str) -> tuple[Point, ...] | None:
        """What was kept under that key; None: nothing, or nothing that can be read."""
        try:
            return _parse(self._path(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _LOG.warning("a benchmark is measured anew: %s cannot be read (%s)", self._path(key), error)
            return None

    def keep(self, key: str, points: Sequence[Point]) -> None:
        """Keeps them, whole or not at all."""
        path = self._path(key)
        try:
            write_whole(path, json.dumps({"points": [[p.n_tokens, p.seconds] for p in points]}))
        except OSError as error:
            _LOG.warning(
                "benchmarks cannot be kept in %s (%s), so they are measured each time; name another folder with %s",
                self._folder,
                error.strerror or error,
                CACHE_VARIABLE,
            )

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def _parse(text: str) -> tuple[Point, ...]:
    """Raises ValueError for what we did not write."""
    match json.loads(text):
        case {"points": [_, *_] as points}:
            return tuple(map(_point, points))
    raise ValueError("it holds no points")


def _point(pair: object) -> Point:
    match pair:
        case [int(n_tokens), float(seconds)] if n_tokens > 0 and 0 < seconds < math.inf:
            return Point(n_tokens, seconds)
    raise ValueError(f"{pair} is no point")
