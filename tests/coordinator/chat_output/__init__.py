# SPDX-License-Identifier: MIT
"""Tests of `coordinator/chat_output`."""
