# SPDX-License-Identifier: MIT
"""What is well and what is not on this machine and in its network, each finding with what to do: `caravan doctor`.

`examining` looks at everything; `devices` at what a worker would use, `graphics` at cards that llama.cpp cannot use,
`multicast` at mDNS, `reaching` at who reaches whom. It changes nothing, and starts nothing that lasts.
"""

from coordinator.diagnosis.examining import diagnose
from coordinator.diagnosis.finding import Finding, Verdict

__all__ = ["Finding", "Verdict", "diagnose"]
