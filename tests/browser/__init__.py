# SPDX-License-Identifier: MIT
"""The web page in a real browser, over real workers. Left out unless asked for: scripts/test -m browser."""
