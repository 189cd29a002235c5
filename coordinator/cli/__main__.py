# SPDX-License-Identifier: MIT
"""`python -m coordinator.cli`, for a checkout that is not installed."""

from coordinator.cli.root import main

main()
