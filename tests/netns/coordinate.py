# SPDX-License-Identifier: MIT
"""A coordinator as a process of its own, so that it can be on another host than the test, and be killed.

    python -m tests.netns.coordinate MODEL RANGES ADDRESS...

lays the inclusive layer ranges ("0-11,12-23") over the workers at these addresses, generates some tokens, and prints
one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time

from coordinator import LayerRange, LoadEvent, Mesh, SamplingParams

N_TOKENS = 8
PROMPT = [1, 300, 400, 500, 600]
CONTEXT = 256
# When this process was started, by the machine's monotonic clock, as whoever started it says.
STARTED_VARIABLE = "CARAVAN_TEST_STARTED"


def main(model: str, ranges: str, addresses: list[str]) -> None:
    """Opens a mesh, generates greedily, says what came from where and how long it took."""
    origins: dict[str, dict[str, int]] = {}

    def note(event: LoadEvent) -> None:
        if event.worker is not None and event.transfer.shares:
            shares = {f"{share.origin} {share.worker}".strip(): share.n_bytes for share in event.transfer.shares}
            origins[event.worker] = shares

    bounds = [part.split("-") for part in ranges.split(",")]
    layer_ranges = [LayerRange(int(first), int(last) + 1) for first, last in bounds]
    started_s = time.perf_counter()
    with Mesh.open(
        model, workers=addresses, insecure_workers=True, discover=False, layer_ranges=layer_ranges, context=CONTEXT,
        parallel=1, on_progress=note,
    ) as mesh:  # fmt: skip
        tokens: list[int] = []
        first_token_s = whole_s = 0.0
        for token in mesh.generate(PROMPT, sampling=SamplingParams(temperature=0.0), max_tokens=N_TOKENS):
            if not tokens:
                first_token_s = time.perf_counter() - started_s
                whole_s = time.monotonic() - float(os.environ[STARTED_VARIABLE])
            tokens.append(token.id)
    print(json.dumps({"tokens": tokens, "first_token_s": first_token_s, "whole_s": whole_s, "origins": origins}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
