# SPDX-License-Identifier: MIT
"""JSON schemas of growing nastiness: a hundred written by hand, and a generator of any number of others."""
