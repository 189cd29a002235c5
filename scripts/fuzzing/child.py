# SPDX-License-Identifier: MIT
"""The process in which one target is fuzzed: `python -m fuzzing.child TARGET SCRATCH FINDINGS [libFuzzer's options]
CORPUS`, where SCRATCH is an empty folder.

It ends with the first input that does what no input may. Signals and hangs are libFuzzer's to see; memory is looked
after here: an input may take as much as it has itself, beside what allocators and interpreters take anyway.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import resource
import sys
from pathlib import Path

import atheris

# gRPC need not say what it thinks of every child.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

with atheris.instrument_imports(include=["native", "protos", "worker"], enable_loader_override=False):
    from fuzzing.targets import OFFER_BYTES, Target, targets

from fuzzing.headers import Mutator
from fuzzing.seeds import good_headers

_ALLOWANCE_BYTES = 16 << 20
# ggml keeps a text of 8 bytes twice, in 32 each, and there may be two million of them in the hole behind a header.
_LOADS_ALLOWANCE_BYTES = 160 << 20
# Beyond what the process has when it begins: an allocation of claimed bytes ends in an error that is seen.
_ADDRESS_SPACE_BYTES = 4 << 30
# How often bytes are changed by libFuzzer itself, and how often what stands before a header.
_BLIND, _FRONT = 0.15, 0.3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Finding(Exception):
    """An input did what none may."""


def main() -> None:
    """Does not return."""
    name, scratch, findings = sys.argv.pop(1), Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
    logging.disable(logging.CRITICAL)
    target = targets(scratch)[name]
    mutator = Mutator(list(good_headers()))
    n_before = OFFER_BYTES if name == "offer" else 0

    allowance_bytes = _LOADS_ALLOWANCE_BYTES if name == "loads" else _ALLOWANCE_BYTES

    def change(data: bytes, max_bytes: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if name == "peer" or chance.random() < _BLIND:
            return bytes(atheris.Mutate(data, max_bytes))
        before, header = bytearray(data[:n_before].ljust(n_before, b"\0")), data[n_before:]
        if before and chance.random() < _FRONT:
            before[chance.randrange(n_before)] = chance.getrandbits(8)
        else:
            header = mutator.change(header, chance, stays_good=name == "loads")
        return (bytes(before) + header)[:max_bytes]

    def try_input(data: bytes) -> None:
        try:
            _bounded(target, data, allowance_bytes)
        except BaseException as error:
            # libFuzzer may not get to write it, and says nothing that tells one exception from another.
            (findings / f"raises-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            print(f"Finding: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            raise

    # What a target reads and keeps once is no growth.
    target(b"\0")
    limit = _peaks()[1] + _ADDRESS_SPACE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    atheris.Setup(sys.argv, try_input, custom_mutator=change)
    atheris.Fuzz()


def _bounded(target: Target, data: bytes, allowance_bytes: int) -> None:
    """Raises Finding where it took too much."""
    _CLEAR.write_text("5")
    before = _peaks()
    target(data)
    for what, start, end in zip(("resident", "address space"), before, _peaks(), strict=True):
        if end - start > len(data) + allowance_bytes:
            raise Finding(f"{end - start:,} bytes ({what}) taken for an input of {len(data):,}")


def _peaks() -> tuple[int, int]:
    """Bytes: the largest resident size since `_CLEAR`, and the largest address space ever."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    values = {words[0]: int(words[1]) << 10 for words in lines if words[:1] in (["VmHWM:"], ["VmPeak:"])}
    return values["VmHWM:"], values["VmPeak:"]


if __name__ == "__main__":
    main()
