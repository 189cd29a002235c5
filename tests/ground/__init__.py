# SPDX-License-Identifier: MIT
"""Tests of the ground that the rooms stand on: layering, house rules, what is tracked, what a wheel holds, and
what documents say to type."""
