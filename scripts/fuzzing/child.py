# SPDX-License-Identifier: MIT
"""The process in which one target is fuzzed: `python -m fuzzing.child TARGET SCRATCH FINDINGS [libFuzzer's
options] CORPUS`, where SCRATCH is an empty folder.

It ends with the first input that does what no input may, which has been written to the findings by then. Aborts,
signals and hangs inside native code are libFuzzer's to see, memory is limits.py's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

# gRPC need not say what it thinks of every child.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

with atheris.instrument_imports(include=["native", "protos", "worker"], enable_loader_override=False):
    from fuzzing.targets import OFFER_BYTES, SPLIT_BYTES, targets

from fuzzing.limits import limit_address_space
from fuzzing.mutation import mutate

# How often bytes are changed by libFuzzer itself, and how often what stands before a header.
_BLIND, _FRONT = 0.15, 0.3

Mutator = Callable[[bytes, random.Random], bytes]


def main() -> None:
    """Does not return."""
    name, scratch, findings = sys.argv.pop(1), Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
    logging.disable(logging.CRITICAL)
    mutators: dict[str, Mutator] = {"layout": mutate, "split": _changed_split, "offer": _changed_offer}
    mutator = mutators.get(name)

    def changed(data: bytes, max_bytes: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if mutator is None or chance.random() < _BLIND:
            return bytes(atheris.Mutate(data, max_bytes))
        return mutator(data, chance)[:max_bytes]

    target = targets(scratch)[name]

    def one_input(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            # libFuzzer's timer may end the process before it has written what it has found.
            (findings / f"raises-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    # What a target reads and keeps once is no growth.
    target(b"")
    limit_address_space()
    atheris.Setup(sys.argv, one_input, custom_mutator=changed)
    atheris.Fuzz()


def _changed_split(data: bytes, chance: random.Random) -> bytes:
    end = SPLIT_BYTES + int.from_bytes(data[:SPLIT_BYTES], "little")
    parts = [data[SPLIT_BYTES:end], data[end:]]
    at = chance.randrange(2)
    parts[at] = mutate(parts[at], chance)
    return len(parts[0]).to_bytes(SPLIT_BYTES, "little") + parts[0] + parts[1]


def _changed_offer(data: bytes, chance: random.Random) -> bytes:
    front, header = bytearray(data[:OFFER_BYTES].ljust(OFFER_BYTES, b"\0")), data[OFFER_BYTES:]
    if chance.random() < _FRONT:
        front[chance.randrange(OFFER_BYTES)] = chance.getrandbits(8)
    else:
        header = mutate(header, chance)
    return bytes(front) + header


if __name__ == "__main__":
    main()
