# SPDX-License-Identifier: MIT
"""Attacks, each written out: who is no member of the cluster, whatever they present, is refused by real workers."""
