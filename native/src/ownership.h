// SPDX-License-Identifier: MIT
#pragma once

#include "ggml_abi.h"

namespace caravan {

// The layer that the rows picked for output belong to: always the last one, whatever its index.
constexpr int last_layer = 1 << 20;
constexpr int no_layer = -1;

// Which layer of the model a graph node belongs to; no_layer for what belongs to none (inputs, embedding).
int layer_of(const tensor * node);

}  // namespace caravan
