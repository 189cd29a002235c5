// SPDX-License-Identifier: MIT
#pragma once

#include "ggml_abi.h"

namespace caravan {

// The layer that the rows picked for output, and all behind them, belong to: always the last one, whatever its index.
constexpr int last_layer = 1 << 20;
// What is made from the caller's inputs alone (masks, their variants, constants): every stage makes it for itself.
constexpr int no_layer = -1;

// The layer that a tensor's own name tells, or that it is written into (a cache); no_layer if neither tells.
int told_layer(const tensor * t);

// Which layer of the model a graph node belongs to. What is made from the embedding tables belongs to layer 0.
int layer_of(const tensor * node);

// The op that made the value of a tensor: for a view, the one that wrote what it shows.
const tensor * op_that_made(const tensor * t);

// And the layer of that op.
int layer_that_made(const tensor * t);

// A weight of no layer (embedding, output, rope factors).
bool is_loose_weight(const tensor * t);

}  // namespace caravan
