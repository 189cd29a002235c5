# SPDX-License-Identifier: MIT
"""A fetch that is killed again and again, each time at another moment, and looked at after each: a program of its own.

    python -m tests.worker.weights.killed STORE MODEL ROUNDS

It forks, so that no round costs an interpreter's start. The child fetches what is missing and says through a pipe what
is held; the parent kills it, and what it finds must be what was said: nothing less, and nothing wrong. Says what it saw
as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.worker.weights.fetching import Source
from worker.weights.store import ModelStore
from worker.weights.stored_model import StoredModel

# Small pieces, so that most kills hit the middle of a tensor.
_PIECE_BYTES = 512
# A whole fetch takes longer than most of these.
_LONGEST_S = 0.06


def main() -> None:
    """Fails loudly at the first round that leaves something wrong."""
    folder, model_path, n_rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    source = Source(model_path)
    order = random.Random(7)
    n_killed = n_resumed = n_written = n_complete = 0
    for _ in range(n_rounds):
        killed, said = _run_killed(folder, source, order.random() * _LONGEST_S, order.getrandbits(32))
        n_killed += killed
        n_resumed += any(kind == "resumed" for kind, _ in said)
        n_written += sum(number for kind, number in said if kind == "wrote")
        store, model = _open(folder, source)
        held = model.held()
        assert source.wrong(model) == [], "a tensor is held that is wrong"
        promised = {number for kind, number in said if kind == "held"}
        assert promised <= held, f"{promised - held} were held before the kill"
        store.close()
        if len(held) == source.n_tensors:
            n_complete += 1
            (folder / source.layout.identity).rename(folder.parent / f"complete-{n_complete}")
    print(json.dumps({"killed": n_killed, "resumed": n_resumed, "written": n_written, "complete": n_complete}))


def _run_killed(folder: Path, source: Source, after_s: float, seed: int) -> tuple[bool, list[tuple[str, int]]]:
    """Whether it was killed before it was done, and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _fetch(folder, source, writer, random.Random(seed))
        os._exit(0)
    os.close(writer)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WIFSIGNALED(status), [(kind, int(number)) for kind, number in map(str.split, lines)]


def _open(folder: Path, source: Source) -> tuple[ModelStore, StoredModel]:
    store = ModelStore(folder, None)
    model = store.find(source.layout.identity)
    return store, model or store.create(source.layout.identity, source.parts, source.chunks())


def _fetch(folder: Path, source: Source, pipe: int, order: random.Random) -> None:
    def say(kind: str, number: int) -> None:
        os.write(pipe, f"{kind} {number}\n".encode())

    _, model = _open(folder, source)
    tensors = [tensor for tensor in range(source.n_tensors) if tensor not in model.held()]
    order.shuffle(tensors)
    for tensor in tensors:
        writer = model.begin(tensor)
        assert writer is not None, "nobody else has it, and it is not held"
        with writer:
            if writer.was_resumed:
                say("resumed", tensor)
            say("wrote", source.write(writer, tensor, piece_bytes=_PIECE_BYTES, order=order))
            writer.finish(source.hash(tensor))
        say("held", tensor)


if __name__ == "__main__":
    main()
