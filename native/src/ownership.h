// SPDX-License-Identifier: MIT
#pragma once

#include "ggml_abi.h"

namespace caravan {

// The layer that the rows picked for output belong to: always the last one, whatever its index.
constexpr int last_layer = 1 << 20;
// What is made from the caller's inputs alone (masks, their variants, constants): every stage makes it for itself.
constexpr int no_layer = -1;

// Which layer of the model a graph node belongs to. What is made from the embedding tables belongs to layer 0.
int layer_of(const tensor * node);

}  // namespace caravan
