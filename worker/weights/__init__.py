# SPDX-License-Identifier: MIT
"""Weights on this worker's disks: the store of what was fetched, and files that lie here anyway (docs/weights.md)."""
