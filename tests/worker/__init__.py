# SPDX-License-Identifier: MIT
"""Tests of the worker room: its pure parts alone, everything else as real processes over real gRPC."""
