# SPDX-License-Identifier: MIT
"""What llama.cpp does with the metadata of a header that our reader takes: dry runs and vocabularies, each in a child.

llama.cpp's loader asserts where it could refuse, so a process that loads for strangers may end (docs/weights.md). This
counts how, and where. It needs no coverage: whole headers are changed, from seeds that load.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from fuzzing.limits import SECONDS, bounded, scratch_folder
from fuzzing.mutation import reword
from fuzzing.seeds import good_headers
from native import Context, ContextParams, LayerRange, Model, ModelFileError, NativeError, Vocabulary, read_layout
from native.context import measure

# Behind the header: enough for every tensor of a seed, so that one that became larger is refused.
_FILE_BYTES = 256 << 20
# llama.cpp's own buffers and caches for the least of models.
_ALLOWANCE_BYTES = 256 << 20
_ADDRESS_SPACE_BYTES = 16 << 30
# Exit statuses of a child.
_UNREADABLE, _REFUSED, _LOADED, _FAILED = 0, 3, 4, 5
_ENDINGS = {_UNREADABLE: "refused by our reader", _REFUSED: "refused by llama.cpp", _LOADED: "loaded"}
_SIGNAL = "ended by"
# What is loaded.
_WHOLE, _PART, _VOCABULARY = range(3)
_TEXT = "Hello <s>\n\u2581\U0001f600"
_PLACE = re.compile(r"([\w.-]+\.(?:cpp|c|h):\d+): (.*)")
_PARAMS = ContextParams(n_ctx_seq=64, n_seq_max=1, n_batch=32)


class _Loads:
    """Loads of changed headers, and what became of them."""

    def __init__(self, folder: Path, findings: Path) -> None:
        self.outcomes: Counter[str] = Counter()
        self._folder = folder
        self._findings = findings
        self._seeds = list(good_headers())

    def run(self, seconds: float, seed: int) -> None:
        chance, end = random.Random(seed), time.monotonic() + seconds
        while time.monotonic() < end:
            data = reword(chance.choice(self._seeds), chance)
            outcome = self._load(data, chance.choice((_WHOLE, _PART, _VOCABULARY)))
            if outcome not in self.outcomes and outcome not in _ENDINGS.values():
                name = re.sub(r"\W+", "-", outcome)[:60].strip("-")
                (self._findings / f"{name}.header").write_bytes(data)
                print(f"loads: {outcome}", flush=True)
            self.outcomes[outcome] += 1

    def _load(self, data: bytes, how: int) -> str:
        """What a child's load of that header came to."""
        path, errors = self._folder / "model.gguf", self._folder / "errors"
        path.write_bytes(data)
        os.truncate(path, max(_FILE_BYTES, len(data)))
        child = os.fork()
        if child == 0:
            _load_and_exit(path, errors, len(data), how)
        status = _waited(child)
        said = errors.read_text(errors="replace")
        if status is None:
            return f"hangs {said[-100:]}"
        if os.WIFSIGNALED(status):
            places = _PLACE.findall(said)
            where = ": ".join(places[0]) if places else said.strip()[-100:]
            return f"{_SIGNAL} {signal.Signals(os.WTERMSIG(status)).name} {where}".strip()
        code = os.WEXITSTATUS(status)
        return _ENDINGS.get(code) or f"exit {code}: {said.strip()[-160:]}"


def run(findings: Path, seconds: float) -> Counter[str]:
    """Loads for so long; what the loads came to. The first of each that no load should come to goes to `findings`."""
    with scratch_folder() as scratch:
        loads = _Loads(scratch, findings)
        loads.run(seconds, time.time_ns())
        return loads.outcomes


def n_seeds() -> int:
    """How many headers it starts from."""
    return len(list(good_headers()))


def is_foreseen(outcome: str) -> bool:
    """Whether that may be; else it took too long, or too much, or is a fault of ours."""
    is_memory = "bad_alloc" in outcome or "length_error" in outcome
    return outcome in _ENDINGS.values() or (outcome.startswith(_SIGNAL) and not is_memory)


def _waited(child: int) -> int | None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _load_and_exit(path: Path, errors: Path, n_bytes: int, how: int) -> None:
    """Does not return: what it came to is the exit status, reasons are in `errors`."""
    code = _FAILED
    try:
        fd = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
        with bounded(n_bytes, _ALLOWANCE_BYTES):
            code = _load(path, how)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = _FAILED
    finally:
        os._exit(code)


def _load(path: Path, how: int) -> int:
    try:
        layout = read_layout(path)
    except ModelFileError:
        return _UNREADABLE
    try:
        if how == _VOCABULARY:
            with Vocabulary.load(path) as vocabulary:
                vocabulary.tokenize(_TEXT, add_special=True, parse_special=True)
                vocabulary.piece(vocabulary.n_tokens - 1, special=True)
            return _LOADED
        middle = layout.n_layer // 2
        layers = LayerRange(middle if how == _PART else 0, layout.n_layer)
        with Model.load(path, layers=layers, device="CPU", allocate=False) as model, Context(model, _PARAMS) as context:
            measure(context)
    except (NativeError, ValueError):
        return _REFUSED
    return _LOADED
