# SPDX-License-Identifier: MIT
"""The contract: everything that crosses the network, and how both sides read it. Imports no other package of ours."""
