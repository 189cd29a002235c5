# SPDX-License-Identifier: MIT
"""The journal of `caravan serve`: what was asked and what was answered, in a file, so that a coordinator that dies can
be followed by one that goes on where it was.
"""
