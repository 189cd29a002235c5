# SPDX-License-Identifier: MIT
"""Tests of the native room, on real llama.cpp and tiny models."""
