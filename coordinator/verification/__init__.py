# SPDX-License-Identifier: MIT
"""Whether a line computes what llama.cpp computes alone, and if not, which of its workers does not: `caravan verify`.

`exercise` is what both compute, `reference` computes it on this machine, `line_check` on a line, whole and from each of
its stages on; `comparison` says how far apart the logits are, `verifying` puts it together,
`judgement` is what comes of it.

How the worker is found. Hidden states of the reference are fed to stage k, and the stages behind it do the rest. What
comes of that for k and for k + 1 differs by what stage k computes otherwise than the reference, and by nothing else:
so each stage is judged alone, on the device and with the weights that it has, and nothing but the line need be loaded.
"""

from coordinator.verification.comparison import Difference
from coordinator.verification.judgement import (
    CheckedLine,
    CheckedWorker,
    Judgement,
    Verification,
    VerifyOptions,
)
from coordinator.verification.verifying import verify

__all__ = ["CheckedLine", "CheckedWorker", "Difference", "Judgement", "Verification", "VerifyOptions", "verify"]
