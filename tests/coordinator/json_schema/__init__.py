# SPDX-License-Identifier: MIT
"""Tests of `coordinator/json_schema`."""
