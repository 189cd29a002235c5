# SPDX-License-Identifier: MIT
"""A worker that says to be on a machine of its own, whose device takes longer for each layer.

Run as a process by the tests of this folder: `python -m tests.line.slow_worker SECONDS ARGUMENTS-OF-A-WORKER`, with
`--name`, which is also that of its machine.
"""

import socket
import sys
import time
from collections.abc import Sequence

from native import Batch, Context, CrossingTensor


def main() -> None:
    """A worker in every other respect."""
    seconds = float(sys.argv.pop(1))
    host_name = sys.argv[sys.argv.index("--name") + 1]
    step, try_step = Context.step, Context.try_step

    def dawdle(context: Context) -> None:
        """As llama.cpp does, without the interpreter's lock."""
        layers = context._model.layers
        assert layers is not None
        time.sleep(seconds * (layers.end - layers.start))

    def slow_step(context: Context, batch: Batch, crossing: Sequence[CrossingTensor] = ()) -> list[CrossingTensor]:
        dawdle(context)
        return step(context, batch, crossing)

    def slow_try(context: Context, batch: Batch) -> None:
        dawdle(context)
        try_step(context, batch)

    Context.step = slow_step  # type: ignore[assignment, method-assign]
    Context.try_step = slow_try  # type: ignore[assignment, method-assign]
    socket.gethostname = lambda: host_name
    from worker import cli

    cli.main()


if __name__ == "__main__":
    main()
