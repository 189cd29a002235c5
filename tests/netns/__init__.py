# SPDX-License-Identifier: MIT
"""Lines whose machines are network namespaces, with links of a chosen speed and counted bytes."""
