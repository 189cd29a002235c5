# SPDX-License-Identifier: MIT
"""Protobuf package `caravan.v1`: the .proto files, and the stubs scripts/generate_protos makes of them."""
