# SPDX-License-Identifier: MIT
"""`caravan worker` whose llama.cpp aborts once, in the middle of a frame, by its own assertion.

Run as a process by the tests of this folder: `python -m tests.line.aborting_worker FILE ARGUMENTS`. The file's being
there has the next frame abort, and it is gone then.
"""

import ctypes as c
import sys
from collections.abc import Sequence
from pathlib import Path

ASSERTION = "GGML_ASSERT(n_tokens > 0) failed"


def main() -> None:
    """The supervisor, or one of its workers."""
    due = sys.argv.pop(1)
    if "--parent-pid" in sys.argv:
        _abort_when(Path(due))
    else:
        from worker import supervisor

        supervisor._PROGRAM = ("-m", "tests.line.aborting_worker", due)
    from worker import cli

    cli.main()


def _abort_when(due: Path) -> None:
    from native import Batch, Context, CrossingTensor
    from native.library import ggml_base

    step = Context.step

    def step_or_abort(context: Context, batch: Batch, crossing: Sequence[CrossingTensor] = ()) -> list[CrossingTensor]:
        if due.exists():
            due.unlink()
            # What the macro does.
            ggml_base.ggml_abort(b"/src/ggml.c", c.c_int(77), b"GGML_ASSERT(%s) failed", b"n_tokens > 0")
        return step(context, batch, crossing)

    Context.step = step_or_abort  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    main()
