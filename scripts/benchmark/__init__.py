# SPDX-License-Identifier: MIT
"""The parts of scripts/bench_vs_rpc."""
