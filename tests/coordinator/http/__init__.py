# SPDX-License-Identifier: MIT
"""Tests of `coordinator/http/`."""
