// SPDX-License-Identifier: MIT
//
// A fence is a real device that refuses the ops of layers beyond its own. Without it ggml's scheduler lets the real
// device run on into the next layer's first ops until it meets a weight, and the two neighbours of the boundary would
// disagree about what crosses it. Everything else is forwarded. Where a stage spans several cards, each has a fence
// around the whole stage: between its own cards ggml may place ops as it likes.
#include <algorithm>
#include <iterator>
#include <new>
#include <vector>

#include "caravan_wire.h"
#include "ggml_abi.h"
#include "host.h"
#include "ownership.h"

namespace caravan {

namespace {

struct fence : device {
    device * real;
    int start;
    int end;
    // Of cards joined to one device: what is handed out instead of its own type, and its graph_compute. Else nullptr.
    buffer_type * buft;
    int (*compute)(backend *, graph *);
};

fence * as_fence(device * dev) {
    return static_cast<fence *>(dev);
}

// An op on a weight of no layer runs where llama.cpp placed the weight; the scheduler sees to that by itself.
bool within(const fence * f, const tensor * op) {
    int layer = told_layer(op);
    if (layer == no_layer) {
        for (const tensor * src : op->src) {
            if (src != nullptr && is_loose_weight(src)) {
                return true;
            }
        }
        layer = layer_of(op);
    }
    return layer == no_layer || (layer >= f->start && layer < f->end);
}

// device interface, forwarded

const char * fence_get_name(device * dev) {
    device * real = as_fence(dev)->real;
    return real->iface.get_name(real);
}

const char * fence_get_description(device * dev) {
    device * real = as_fence(dev)->real;
    return real->iface.get_description(real);
}

void fence_get_memory(device * dev, size_t * free, size_t * total) {
    device * real = as_fence(dev)->real;
    real->iface.get_memory(real, free, total);
}

int fence_get_type(device * dev) {
    device * real = as_fence(dev)->real;
    return real->iface.get_type(real);
}

void fence_get_props(device * dev, device_props * props) {
    device * real = as_fence(dev)->real;
    real->iface.get_props(real, props);
}

buffer_type * fence_get_buffer_type(device * dev) {
    const fence * f = as_fence(dev);
    return f->buft != nullptr ? f->buft : f->real->iface.get_buffer_type(f->real);
}

buffer_type * fence_get_host_buffer_type(device * dev) {
    device * real = as_fence(dev)->real;
    return real->iface.get_host_buffer_type(real);
}

buffer * fence_buffer_from_host_ptr(device * dev, void * ptr, size_t size, size_t max_tensor_size) {
    device * real = as_fence(dev)->real;
    return real->iface.buffer_from_host_ptr(real, ptr, size, max_tensor_size);
}

bool fence_supports_buft(device * dev, buffer_type * buft) {
    const fence * f = as_fence(dev);
    return (f->buft != nullptr && f->buft == buft) || f->real->iface.supports_buft(f->real, buft);
}

event * fence_event_new(device * dev) {
    device * real = as_fence(dev)->real;
    return real->iface.event_new(real);
}

void fence_event_free(device * dev, event * e) {
    device * real = as_fence(dev)->real;
    real->iface.event_free(real, e);
}

void fence_event_synchronize(device * dev, event * e) {
    device * real = as_fence(dev)->real;
    real->iface.event_synchronize(real, e);
}

// device interface, changed

// A view computes nothing, so the scheduler leaves it in whatever graph it comes by. Joined cards look up their parts
// of every node, and abort at one that has none: views of what lies on a wire are kept from them.
int fence_graph_compute(backend * b, graph * g) {
    const fence * f = as_fence(b->device);
    const auto is_elsewhere = [f](const tensor * t) {
        return is_view_op(t) && (t->buffer == nullptr || t->buffer->buft->device != f->real);
    };
    if (std::none_of(g->nodes, g->nodes + g->n_nodes, is_elsewhere)) {
        return f->compute(b, g);
    }
    std::vector<tensor *> own;
    std::copy_if(g->nodes, g->nodes + g->n_nodes, std::back_inserter(own),
                 [&](const tensor * t) { return !is_elsewhere(t); });
    graph rest = *g;
    rest.nodes = own.data();
    rest.n_nodes = static_cast<int>(own.size());
    return own.empty() ? static_cast<int>(status_success) : f->compute(b, &rest);
}

// The scheduler asks a backend's device what it supports: the backend has to name the fence, not the real device.
backend * fence_init_backend(device * dev, const char * params) {
    fence * f = as_fence(dev);
    backend * b = f->real->iface.init_backend(f->real, params);
    if (b != nullptr) {
        b->device = dev;
    }
    if (b != nullptr && f->buft != nullptr) {
        f->compute = b->iface.graph_compute;
        b->iface.graph_compute = fence_graph_compute;
    }
    return b;
}

bool fence_supports_op(device * dev, const tensor * op) {
    const fence * f = as_fence(dev);
    return within(f, op) && f->real->iface.supports_op(f->real, op);
}

bool fence_offload_op(device * dev, const tensor * op) {
    const fence * f = as_fence(dev);
    return within(f, op) && f->real->iface.offload_op(f->real, op);
}

// What the real device leaves out stays left out.
device_iface forward(const device_iface & real) {
    device_iface i = {};
    i.get_name = fence_get_name;
    i.get_description = fence_get_description;
    i.get_memory = fence_get_memory;
    i.get_type = fence_get_type;
    i.get_props = fence_get_props;
    i.init_backend = fence_init_backend;
    i.get_buffer_type = fence_get_buffer_type;
    i.get_host_buffer_type = real.get_host_buffer_type != nullptr ? fence_get_host_buffer_type : nullptr;
    i.buffer_from_host_ptr = real.buffer_from_host_ptr != nullptr ? fence_buffer_from_host_ptr : nullptr;
    i.supports_op = fence_supports_op;
    i.supports_buft = fence_supports_buft;
    i.offload_op = real.offload_op != nullptr ? fence_offload_op : nullptr;
    i.event_new = real.event_new != nullptr ? fence_event_new : nullptr;
    i.event_free = real.event_free != nullptr ? fence_event_free : nullptr;
    i.event_synchronize = real.event_synchronize != nullptr ? fence_event_synchronize : nullptr;
    return i;
}

}  // namespace
}  // namespace caravan

using namespace caravan;

void * caravan_fence_new(void * real_device, int start, int end) {
    device * real = static_cast<device *>(real_device);
    fence * f = new (std::nothrow) fence;
    if (f == nullptr) {
        return nullptr;
    }
    f->iface = forward(real->iface);
    f->reg = real->reg;
    f->context = real->context;
    f->real = real;
    f->start = start;
    f->end = end;
    f->buft = nullptr;
    f->compute = nullptr;
    return static_cast<device *>(f);
}

void caravan_fence_join(void * dev, void * buffer_type) {
    as_fence(static_cast<device *>(dev))->buft = static_cast<caravan::buffer_type *>(buffer_type);
}

void caravan_fence_free(void * dev) {
    delete as_fence(static_cast<device *>(dev));
}
