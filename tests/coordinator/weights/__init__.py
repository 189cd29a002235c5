# SPDX-License-Identifier: MIT
"""Where weights come from, and how they are given: real files, real HTTP, real sockets."""
