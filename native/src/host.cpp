// SPDX-License-Identifier: MIT
//
// Takes in the running library's functions and checks, as far as it can be checked, that its structures are laid out
// as ggml_abi.h declares them.
#include "host.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "caravan_wire.h"

namespace caravan {

host_functions host = {};

namespace {

// ggml_tensor_overhead() is the size of a tensor and of the object header before it.
// Source: struct ggml_object in ggml/src/ggml.c: two sizes, a pointer, an enum, four bytes of padding.
constexpr size_t object_header_bytes = 32;

char complaint[256];

template <typename F> void take(F & target, void * address) {
    target = reinterpret_cast<F>(address);
}

}  // namespace
}  // namespace caravan

using namespace caravan;

const char * caravan_init(const struct caravan_host * given, void * any_device) {
    take(host.buffer_init, given->buffer_init);
    take(host.tensor_get, given->tensor_get);
    take(host.synchronize, given->synchronize);
    take(host.graph_n_nodes, given->graph_n_nodes);
    take(host.graph_node, given->graph_node);
    take(host.nbytes, given->nbytes);
    take(host.tensor_overhead, given->tensor_overhead);
    take(host.sched_n_backends, given->sched_n_backends);
    take(host.sched_backend, given->sched_backend);
    take(host.sched_set_backend, given->sched_set_backend);
    host.memory_breakdown = given->memory_breakdown;
    host.op_get_rows = given->op_get_rows;
    std::copy(given->view_ops, given->view_ops + n_view_ops, host.view_ops);
    std::copy(std::begin(given->ops_view), std::end(given->ops_view), host.ops_view);

    const device * dev = static_cast<const device *>(any_device);
    if (dev->reg->api_version != backend_api_version) {
        std::snprintf(complaint, sizeof complaint, "ggml backend API version %d, built for version %d",
                      dev->reg->api_version, backend_api_version);
        return complaint;
    }
    const size_t expected_bytes = sizeof(tensor) + object_header_bytes;
    if (host.tensor_overhead() != expected_bytes) {
        std::snprintf(complaint, sizeof complaint, "ggml tensors of %zu bytes with their header, built for %zu",
                      host.tensor_overhead(), expected_bytes);
        return complaint;
    }
    return nullptr;
}
