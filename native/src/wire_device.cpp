// SPDX-License-Identifier: MIT
//
// A wire as ggml sees it: a device whose buffers have addresses but no memory, that supports every op of its layers
// and computes none of them. ggml's scheduler copies tensors to and from it at the boundary; those copies are what
// crosses the network.
//
// Read from the last line up: the C functions, the device, the backend, the buffer type, the buffer. Apart from them:
// how llama.cpp brings weights here, which nobody looks at.
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>

#include "caravan_wire.h"
#include "host.h"
#include "ownership.h"
#include "wire.h"

namespace caravan {

namespace {

// Claimed as free memory, so that llama.cpp never finds a wire too small. 16 TiB.
constexpr size_t claimed_bytes = static_cast<size_t>(1) << 44;
// Wire buffers live at addresses that no process maps: beyond the 47 bits of user space, below any sign bit.
constexpr uintptr_t first_address = static_cast<uintptr_t>(1) << 48;
constexpr size_t alignment_bytes = 64;
constexpr size_t buffer_gap_bytes = static_cast<size_t>(1) << 20;

// Source: enum ggml_backend_buffer_usage in ggml/include/ggml-backend.h.
constexpr int usage_weights = 1;

struct wire {
    std::string name;
    int start;
    int end;
    wire_step step;
    // What ops on this wire read, and whether it crosses; as many as a graph has tensors, since they lie in one arena.
    std::unordered_map<const tensor *, bool> crossing;
    std::atomic<uintptr_t> next_address{ first_address };
    std::unordered_map<std::string, int64_t> weight_bytes;  // set here, by the tensor's name
    // Behind which what crosses is made, and who decides that; both or neither.
    caravan::device * fence = nullptr;
    scheduler * sched = nullptr;
    // A model is being loaded; memory was taken for its weights, too, so that they are about to come.
    bool is_loading = false;
    bool is_awaiting_weights = false;
    caravan::device device = {};
    buffer_type buft = {};
    buffer_type staging = {};

    wire(const char * name_, int start_, int end_, size_t max_step_bytes)
        : name(name_), start(start_), end(end_), step(max_step_bytes) {}

    // Whether it stands for the layers before the stage's own; a wire after never starts at layer 0.
    bool stands_before() const { return start == 0; }
};

wire * wire_of(const device * dev) {
    return static_cast<wire *>(dev->context);
}

wire * wire_of(const buffer_type * buft) {
    return static_cast<wire *>(buft->context);
}

wire * wire_of(const backend * b) {
    return static_cast<wire *>(b->context);
}

bool lies_on(const wire * w, const tensor * t) {
    const tensor * storage = t->view_src != nullptr ? t->view_src : t;
    return storage->buffer != nullptr && storage->buffer->buft == &w->buft;
}

// Whether a tensor that an op on this wire reads has to cross: if a layer before the wire's made it. What belongs to
// no layer every stage makes for itself, and what belongs to the wire's own layers is theirs to make (they may have
// written it into something made here). Weights stay where they are.
bool crosses(const wire * w, const tensor * t) {
    const tensor * storage = t->view_src != nullptr ? t->view_src : t;
    const bool is_weight = storage->buffer != nullptr && storage->buffer->usage == usage_weights;
    const int layer = is_weight ? no_layer : layer_that_made(t);
    return layer != no_layer && layer < w->start && host.nbytes(t) > 0;
}

bool owns(const wire * w, const tensor * op) {
    // What llama.cpp placed in a wire's buffer is the wire's, whatever it is called.
    if (lies_on(w, op)) {
        return true;
    }
    int layer = told_layer(op);
    if (layer == no_layer) {
        for (const tensor * src : op->src) {
            if (src != nullptr && is_loose_weight(src) && lies_on(w, src)) {
                return true;
            }
        }
        layer = layer_of(op);
    }
    // An op without a layer is not taken: an op of the stage's own may write into its result, which needs memory.
    return layer != no_layer && layer >= w->start && layer < w->end;
}

bool reads_weights(const tensor * op) {
    for (const tensor * src : op->src) {
        if (src != nullptr && src->buffer != nullptr && src->buffer->usage == usage_weights) {
            return true;
        }
    }
    return false;
}

// Gives the op that made a crossing tensor to the real device, and so what led there since the last op on weights: the
// scheduler hands ops without weights to the device that follows, and here none follows but the wire. Without it, they
// would stay on the CPU behind experts that lie in system memory, and a sum on the CPU is not always that of a GPU.
void hold(const wire * w, const tensor * crossing) {
    const tensor * op = op_that_made(crossing);
    const tensor * storage = op->view_src != nullptr ? op->view_src : op;
    if (storage->buffer != nullptr || reads_weights(op) || !w->fence->iface.supports_op(w->fence, op)) {
        return;
    }
    for (int i = 0; i < host.sched_n_backends(w->sched); i++) {
        backend * b = host.sched_backend(w->sched, i);
        if (b->device == w->fence) {
            host.sched_set_backend(w->sched, const_cast<tensor *>(op), b);
        }
    }
}

// buffer

void buffer_free(buffer *) {}

void * buffer_get_base(buffer * b) {
    return b->context;
}

void buffer_memset_tensor(buffer *, tensor *, uint8_t, size_t, size_t) {}

// The data of a weight may be anything: the file it comes from is read in part (partial_file.cpp).
void buffer_set_tensor(buffer * b, tensor * t, const void *, size_t, size_t size) {
    if (b->usage == usage_weights) {
        wire_of(b->buft)->weight_bytes[t->name] += static_cast<int64_t>(size);
    }
}

// Only a wire before gives values. A wire after is asked just when llama.cpp collects the outputs of a graph that it
// believes whole; on a stage that is not the last nobody reads those, and they must not look like values.
void buffer_get_tensor(buffer * b, const tensor * t, void * data, size_t offset, size_t size) {
    wire * w = wire_of(b->buft);
    if (w->stands_before()) {
        w->step.supply(t, data, offset, size);
    } else {
        fill_missing(t, data, size);
    }
}

// Copies between wires (a sequence's cache rows copied to another sequence) have nothing to move.
bool buffer_cpy_tensor(buffer * b, const tensor * src, tensor *) {
    const buffer * from = src->view_src != nullptr ? src->view_src->buffer : src->buffer;
    return from != nullptr && from->buft == b->buft;
}

void buffer_clear(buffer *, uint8_t) {}

constexpr buffer_iface buffer_functions = {
    /* .free_buffer   = */ buffer_free,
    /* .get_base      = */ buffer_get_base,
    /* .init_tensor   = */ nullptr,
    /* .memset_tensor = */ buffer_memset_tensor,
    /* .set_tensor    = */ buffer_set_tensor,
    /* .get_tensor    = */ buffer_get_tensor,
    /* .set_tensor_2d = */ nullptr,
    /* .get_tensor_2d = */ nullptr,
    /* .cpy_tensor    = */ buffer_cpy_tensor,
    /* .clear         = */ buffer_clear,
    /* .reset         = */ nullptr,
};

// buffer type

const char * buffer_type_get_name(buffer_type * buft) {
    return wire_of(buft)->name.c_str();
}

buffer * buffer_type_alloc_buffer(buffer_type * buft, size_t size) {
    const size_t room = (size + 2 * buffer_gap_bytes - 1) / buffer_gap_bytes * buffer_gap_bytes;
    wire * w = wire_of(buft);
    w->is_awaiting_weights = w->is_loading;
    const uintptr_t base = w->next_address.fetch_add(room);
    return host.buffer_init(buft, buffer_functions, reinterpret_cast<void *>(base), size);
}

size_t buffer_type_get_alignment(buffer_type *) {
    return alignment_bytes;
}

constexpr buffer_type_iface buffer_type_functions = {
    /* .get_name       = */ buffer_type_get_name,
    /* .alloc_buffer   = */ buffer_type_alloc_buffer,
    /* .get_alignment  = */ buffer_type_get_alignment,
    /* .get_max_size   = */ nullptr,
    /* .get_alloc_size = */ nullptr,
    /* .is_host        = */ nullptr,
};

// staging: llama.cpp reads a weight for a device as a whole into memory that it has filled with zeros before, byte by
// byte, or through a few buffers of a megabyte, if the device can take them while the next is read
// (llama_model_loader::load_all_data). Here the second is as quick as copying within a cache; the first takes longer
// than reading a stage's own layers does. So a wire says that it can while a model's weights come.

void staging_free(buffer * b) {
    delete[] static_cast<char *>(b->context);
}

constexpr buffer_iface staging_functions = {
    /* .free_buffer   = */ staging_free,
    /* .get_base      = */ buffer_get_base,
    /* .init_tensor   = */ nullptr,
    /* .memset_tensor = */ buffer_memset_tensor,
    /* .set_tensor    = */ nullptr,
    /* .get_tensor    = */ nullptr,
    /* .set_tensor_2d = */ nullptr,
    /* .get_tensor_2d = */ nullptr,
    /* .cpy_tensor    = */ nullptr,
    /* .clear         = */ buffer_clear,
    /* .reset         = */ nullptr,
};

buffer * staging_alloc(buffer_type * buft, size_t size) {
    char * memory = new (std::nothrow) char[size];
    return memory == nullptr ? nullptr : host.buffer_init(buft, staging_functions, memory, size);
}

constexpr buffer_type_iface staging_type_functions = {
    /* .get_name       = */ buffer_type_get_name,
    /* .alloc_buffer   = */ staging_alloc,
    /* .get_alignment  = */ buffer_type_get_alignment,
    /* .get_max_size   = */ nullptr,
    /* .get_alloc_size = */ nullptr,
    /* .is_host        = */ nullptr,
};

void backend_set_tensor_async(backend *, tensor * t, const void * data, size_t offset, size_t size) {
    buffer_set_tensor(t->buffer, t, data, offset, size);
}

void backend_event_record(backend *, event *) {}

event * device_event_new(device * dev) {
    return wire_of(dev)->is_awaiting_weights ? new (std::nothrow) event{ dev, nullptr } : nullptr;
}

void device_event_free(device *, event * e) {
    delete e;
}

void device_event_synchronize(device *, event *) {}

buffer_type * device_get_host_buffer_type(device * dev) {
    wire * w = wire_of(dev);
    return w->is_awaiting_weights ? &w->staging : nullptr;
}

// backend

const char * backend_get_name(backend * b) {
    return wire_of(b)->name.c_str();
}

void backend_free(backend * b) {
    delete b;
}

void backend_synchronize(backend *) {}

// The scheduler hands a tensor that a stage has to the wire after it: the value crosses, if that is what `crosses`
// found when the graph was split. By now the scheduler has replaced edges of the graph by its copies.
bool backend_cpy_tensor_async(backend * from, backend * to, const tensor * src, tensor *) {
    wire * w = wire_of(to);
    const auto found = w->crossing.find(src);
    if (found != w->crossing.end() ? found->second : crosses(w, src)) {
        host.synchronize(from);
        w->step.capture(src);
    }
    return true;
}

int backend_graph_compute(backend * b, graph * g) {
    if (host.graph_n_nodes(g) > 0) {
        wire_of(b)->step.computing(host.graph_node(g, 0));
    }
    return status_success;
}

constexpr backend_iface backend_functions = {
    /* .get_name            = */ backend_get_name,
    /* .free                = */ backend_free,
    /* .set_tensor_async    = */ backend_set_tensor_async,
    /* .get_tensor_async    = */ nullptr,
    /* .set_tensor_2d_async = */ nullptr,
    /* .get_tensor_2d_async = */ nullptr,
    /* .cpy_tensor_async    = */ backend_cpy_tensor_async,
    /* .synchronize         = */ backend_synchronize,
    /* .graph_plan_create   = */ nullptr,
    /* .graph_plan_free     = */ nullptr,
    /* .graph_plan_update   = */ nullptr,
    /* .graph_plan_compute  = */ nullptr,
    /* .graph_compute       = */ backend_graph_compute,
    /* .event_record        = */ backend_event_record,
    /* .event_wait          = */ nullptr,
    /* .graph_optimize      = */ nullptr,
};

uint8_t wire_guid[16] = {
    0x63, 0x61, 0x72, 0x61, 0x76, 0x61, 0x6e, 0x2d, 0x77, 0x69, 0x72, 0x65, 0x2d, 0x76, 0x30, 0x31
};

// device

const char * device_get_name(device * dev) {
    return wire_of(dev)->name.c_str();
}

void device_get_memory(device *, size_t * free, size_t * total) {
    *free = claimed_bytes;
    *total = claimed_bytes;
}

int device_get_type(device *) {
    return device_type_gpu;
}

void device_get_props(device * dev, device_props * props) {
    *props = {};
    props->name = device_get_name(dev);
    props->description = props->name;
    props->type = device_type_gpu;
    device_get_memory(dev, &props->memory_free, &props->memory_total);
    props->caps.mmap_support = true;
    const bool is_awaiting_weights = wire_of(dev)->is_awaiting_weights;
    props->caps.async = is_awaiting_weights;
    props->caps.host_buffer = is_awaiting_weights;
    props->caps.events = is_awaiting_weights;
}

backend * device_init_backend(device * dev, const char *) {
    return new (std::nothrow) backend{ &wire_guid, backend_functions, dev, dev->context };
}

buffer_type * device_get_buffer_type(device * dev) {
    return &wire_of(dev)->buft;
}

bool device_supports_op(device * dev, const tensor * op) {
    wire * w = wire_of(dev);
    w->step.graph_cut();
    if (!owns(w, op)) {
        return false;
    }
    if (!w->stands_before()) {
        for (const tensor * src : op->src) {
            if (src == nullptr) {
                continue;
            }
            const bool does_cross = crosses(w, src);
            w->crossing[src] = does_cross;
            if (does_cross && w->sched != nullptr) {
                hold(w, src);
            }
        }
    }
    return true;
}

bool device_supports_buft(device * dev, buffer_type * buft) {
    return buft == &wire_of(dev)->buft;
}

constexpr device_iface device_functions = {
    /* .get_name             = */ device_get_name,
    /* .get_description      = */ device_get_name,
    /* .get_memory           = */ device_get_memory,
    /* .get_type             = */ device_get_type,
    /* .get_props            = */ device_get_props,
    /* .init_backend         = */ device_init_backend,
    /* .get_buffer_type      = */ device_get_buffer_type,
    /* .get_host_buffer_type = */ device_get_host_buffer_type,
    /* .buffer_from_host_ptr = */ nullptr,
    /* .supports_op          = */ device_supports_op,
    /* .supports_buft        = */ device_supports_buft,
    /* .offload_op           = */ nullptr,
    /* .event_new            = */ device_event_new,
    /* .event_free           = */ device_event_free,
    /* .event_synchronize    = */ device_event_synchronize,
};

// registry: wires are handed over in device lists, none is registered

const char * registry_get_name(registry *) {
    return "caravan-wire";
}

size_t registry_get_device_count(registry *) {
    return 0;
}

device * registry_get_device(registry *, size_t) {
    return nullptr;
}

registry wire_registry = {
    /* .api_version = */ backend_api_version,
    /* .iface       = */ { registry_get_name, registry_get_device_count, registry_get_device, nullptr },
    /* .context     = */ nullptr,
};

wire * as_wire(void * handle) {
    return static_cast<wire *>(handle);
}

}  // namespace
}  // namespace caravan

using namespace caravan;

void * caravan_wire_new(const char * name, int start, int end, size_t max_step_bytes) {
    wire * w = new (std::nothrow) wire(name, start, end, max_step_bytes);
    if (w == nullptr) {
        return nullptr;
    }
    w->device = { device_functions, &wire_registry, w };
    w->buft = { buffer_type_functions, &w->device, w };
    w->staging = { staging_type_functions, &w->device, w };
    return w;
}

void caravan_wire_free(void * handle) {
    delete as_wire(handle);
}

void * caravan_wire_device(void * handle) {
    return &as_wire(handle)->device;
}

void * caravan_wire_buffer_type(void * handle) {
    return &as_wire(handle)->buft;
}

void caravan_wire_loading(void * handle, int is_loading) {
    wire * w = as_wire(handle);
    w->is_loading = is_loading != 0;
    w->is_awaiting_weights = false;
}

int64_t caravan_wire_weight_bytes(void * handle, const char * name) {
    const auto & weight_bytes = as_wire(handle)->weight_bytes;
    const auto found = weight_bytes.find(name);
    return found == weight_bytes.end() ? 0 : found->second;
}

void caravan_wire_begin(void * handle, const struct caravan_crossing * incoming, size_t n) {
    as_wire(handle)->step.begin(incoming, n);
}

void caravan_wire_begin_made_up(void * handle) {
    as_wire(handle)->step.begin_made_up();
}

void caravan_wire_hold(void * handle, void * fence, void * sched) {
    wire * w = as_wire(handle);
    w->fence = static_cast<device *>(fence);
    w->sched = static_cast<scheduler *>(sched);
}

const char * caravan_wire_end(void * handle) {
    return as_wire(handle)->step.end();
}

size_t caravan_wire_captured(void * handle, struct caravan_crossing * out, size_t capacity) {
    return as_wire(handle)->step.captured(out, capacity);
}

int caravan_layer_of(const void * node) {
    return layer_of(static_cast<const tensor *>(node));
}
