# SPDX-License-Identifier: MIT
"""A whole line, end to end: real workers in processes of their own, driven through the public `Mesh`."""
