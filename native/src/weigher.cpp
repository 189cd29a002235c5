// SPDX-License-Identifier: MIT
//
// Scales for cards that share every tensor. To llama.cpp they are one device, and what a load that allocates nothing
// would take of it counts each tensor whole. A weigher stands in for that device's buffer type and says of each tensor
// how large the part is that one card gets, by llama.cpp's own rule.
//
// Read from the last line up: the C functions, the buffer type.
#include <new>
#include <string>

#include "caravan_wire.h"
#include "ggml_abi.h"
#include "host.h"

namespace caravan {

namespace {

constexpr int max_segments = 16;
constexpr int max_cards = 16;

// Source: struct ggml_backend_meta_split_state in ggml/include/ggml-backend.h. An axis of the tensor, or a number
// beyond those for what every card has whole.
struct split_state {
    int axis;
    int64_t ne[max_segments * max_cards];
    uint32_t nr[max_segments];
    uint32_t n_segments;
};

// Source: ggml_backend_meta_get_split_state_t, likewise.
using split_function = split_state (*)(const tensor *, void * data);

struct weigher {
    buffer_type own;
    buffer_type * joined;
    split_function split;
    void * split_data;
    buffer_type * cards[max_cards];
    size_t n_cards;
    // Which card's parts are weighed; n_cards: whole tensors, as for a buffer that computes.
    size_t card;
    std::string left_out;
};

weigher * weigher_of(buffer_type * buft) {
    return static_cast<weigher *>(buft->context);
}

size_t size_in(buffer_type * buft, const tensor * t) {
    return buft->iface.get_alloc_size != nullptr ? buft->iface.get_alloc_size(buft, t) : host.nbytes(t);
}

// A card's part of a tensor, laid out as ggml does. Source: ggml_backend_meta_buffer_init_tensor_impl in
// ggml/src/ggml-backend-meta.cpp.
tensor part_of(weigher * w, const tensor * t) {
    tensor part = *t;
    const split_state state = w->split(t, w->split_data);
    if (state.axis < 0 || state.axis >= max_dims) {
        return part;
    }
    part.ne[state.axis] = 0;
    for (size_t s = 0; s < state.n_segments; s++) {
        part.ne[state.axis] += state.ne[s * w->n_cards + w->card] * state.nr[s];
    }
    if (part.ne[state.axis] == 0 && w->left_out.empty()) {
        w->left_out = t->name;
    }
    for (int d = 0; d < max_dims; d++) {
        if (t->nb[d] > t->nb[state.axis]) {
            part.nb[d] = t->nb[d] * static_cast<size_t>(part.ne[state.axis]) / static_cast<size_t>(t->ne[state.axis]);
        }
    }
    return part;
}

// buffer

// Where no process maps anything: a load that allocates nothing looks at no byte.
constexpr uintptr_t nowhere = static_cast<uintptr_t>(1) << 48;

void * buffer_get_base(buffer *) {
    return reinterpret_cast<void *>(nowhere);
}

void buffer_clear(buffer *, uint8_t) {}

buffer_iface buffer_functions() {
    buffer_iface functions = {};
    functions.get_base = buffer_get_base;
    functions.clear = buffer_clear;
    return functions;
}

// buffer type

const char * weigher_get_name(buffer_type *) {
    return "WEIGHER";
}

// Mostly of no bytes, to know which type a tensor has; llama.cpp does allocate what keeps a recurrent state.
buffer * weigher_alloc_buffer(buffer_type * buft, size_t size) {
    return host.buffer_init(buft, buffer_functions(), nullptr, size);
}

size_t weigher_get_alignment(buffer_type * buft) {
    buffer_type * joined = weigher_of(buft)->joined;
    return joined->iface.get_alignment(joined);
}

size_t weigher_get_max_size(buffer_type * buft) {
    buffer_type * joined = weigher_of(buft)->joined;
    return joined->iface.get_max_size(joined);
}

size_t weigher_get_alloc_size(buffer_type * buft, const tensor * t) {
    weigher * w = weigher_of(buft);
    if (w->card == w->n_cards) {
        return size_in(w->joined, t);
    }
    const tensor part = part_of(w, t);
    return size_in(w->cards[w->card], &part);
}

constexpr buffer_type_iface weigher_functions = {
    /* .get_name       = */ weigher_get_name,
    /* .alloc_buffer   = */ weigher_alloc_buffer,
    /* .get_alignment  = */ weigher_get_alignment,
    /* .get_max_size   = */ weigher_get_max_size,
    /* .get_alloc_size = */ weigher_get_alloc_size,
    /* .is_host        = */ nullptr,
};

}  // namespace
}  // namespace caravan

using namespace caravan;

void * caravan_weigher_new(void * joined, void * const * cards, size_t n_cards, void * split, void * split_data) {
    weigher * w = n_cards <= max_cards ? new (std::nothrow) weigher{} : nullptr;
    if (w == nullptr) {
        return nullptr;
    }
    w->joined = static_cast<buffer_type *>(joined);
    w->own = { weigher_functions, w->joined->device, w };
    w->split = reinterpret_cast<split_function>(split);
    w->split_data = split_data;
    for (size_t i = 0; i < n_cards; i++) {
        w->cards[i] = static_cast<buffer_type *>(cards[i]);
    }
    w->n_cards = n_cards;
    w->card = n_cards;
    return w;
}

void caravan_weigher_free(void * handle) {
    delete static_cast<weigher *>(handle);
}

void * caravan_weigher_buffer_type(void * handle) {
    return &static_cast<weigher *>(handle)->own;
}

void caravan_weigher_weigh(void * handle, size_t card) {
    weigher * w = static_cast<weigher *>(handle);
    w->card = card;
    w->left_out.clear();
}

const char * caravan_weigher_left_out(void * handle) {
    return static_cast<weigher *>(handle)->left_out.c_str();
}
