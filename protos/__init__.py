# SPDX-License-Identifier: MIT
"""The contract: everything that crosses the network, and nothing else. Imports no other package of ours."""
