# SPDX-License-Identifier: MIT
"""The command line, `caravan`: one module per command; see docs/cli.md."""

from coordinator.cli.root import main

__all__ = ["main"]
