# SPDX-License-Identifier: MIT
"""A worker whose llama.cpp fails at one token, as it would at one that it has a bug with, and takes long for another.

Run as a process by the tests of this folder: `python -m tests.line.poisoned_worker TOKEN TOKEN ARGUMENTS-OF-A-WORKER`.
"""

import sys
import time
from collections.abc import Sequence

from native import Batch, Context, CrossingTensor, NativeError

SLOW_S = 2.0


def main() -> None:
    """A worker in every other respect."""
    poison, slow = int(sys.argv.pop(1)), int(sys.argv.pop(1))
    step = Context.step

    def fail_at_poison(context: Context, batch: Batch, crossing: Sequence[CrossingTensor] = ()) -> list[CrossingTensor]:
        if poison in batch.tokens:
            raise NativeError(f"token {poison} cannot be computed")
        if slow in batch.tokens:
            time.sleep(SLOW_S)  # as llama.cpp does, without the interpreter's lock
        return step(context, batch, crossing)

    Context.step = fail_at_poison  # type: ignore[assignment, method-assign]
    from worker import cli

    cli.main()


if __name__ == "__main__":
    main()
