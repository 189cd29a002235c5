# SPDX-License-Identifier: MIT
"""Tests, mirroring the rooms; beside them whole lines, conformance and the ground they all stand on."""
