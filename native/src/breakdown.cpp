// SPDX-License-Identifier: MIT
//
// Exact bytes per buffer type of a context. llama.cpp offers this as a C++ function that returns a std::map
// (llama-ext.h); it is called through its address, with the same types.
#include <cstddef>
#include <map>

#include "caravan_wire.h"
#include "host.h"

namespace {

// Source: struct llama_memory_breakdown_data in src/llama-ext.h.
struct breakdown_data {
    size_t model = 0;
    size_t context = 0;
    size_t compute = 0;
};

using breakdown = std::map<caravan::buffer_type *, breakdown_data>;
using breakdown_function = breakdown (*)(const void * context);

}  // namespace

size_t caravan_memory_breakdown(void * context, struct caravan_bytes * out, size_t capacity) {
    const auto function = reinterpret_cast<breakdown_function>(caravan::host.memory_breakdown);
    size_t n = 0;
    for (const auto & [buft, bytes] : function(context)) {
        if (n < capacity) {
            out[n] = { buft, bytes.model, bytes.context, bytes.compute };
        }
        n++;
    }
    return n;
}
