# SPDX-License-Identifier: MIT
"""Protobuf package `caravan`; one folder per version of the contract."""
