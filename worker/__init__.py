# SPDX-License-Identifier: MIT
"""The daemon: one process per device, holding one stage of a line. Imports `protos` and `native` only."""
