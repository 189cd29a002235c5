# SPDX-License-Identifier: MIT
"""Weights on a worker's disks, with real files."""
