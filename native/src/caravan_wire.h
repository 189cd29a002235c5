// SPDX-License-Identifier: MIT
//
// What Python sees of the native library: wires and fences (devices for llama.cpp's device list), the steps of a
// wire, the memory breakdown of a context, files of which only a part is read, tokens of a text, and assertions that
// become refusals. No exception and no C++ type crosses this border.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef _WIN32
#define CARAVAN_API __declspec(dllexport)
#else
#define CARAVAN_API __attribute__((visibility("default")))
#endif

extern "C" {

// A crossing tensor: key, ggml type, ne[], and row-major bytes without gaps. Captured: owned by the wire until its
// next step begins. Given: borrowed, must outlive the step.
struct caravan_crossing {
    const char * key;
    int32_t type;
    int64_t ne[4];
    const void * data;
    size_t size;
};

// Functions of the running ggml and llama (found by name in the loaded libraries), and the numbers of some of its ops:
// GET_ROWS, and those that only show what another made (RESHAPE, VIEW, PERMUTE, TRANSPOSE).
struct caravan_host {
    void * buffer_init;
    void * tensor_get;
    void * synchronize;
    void * graph_n_nodes;
    void * graph_node;
    void * nbytes;
    void * tensor_overhead;
    void * graph_overhead;
    void * sched_n_backends;
    void * sched_backend;
    void * sched_set_backend;
    void * memory_breakdown;
    int32_t op_get_rows;
    int32_t view_ops[4];
    int32_t ops_view[4];
};

struct caravan_bytes {
    void * buffer_type;
    size_t weights;
    size_t kv;
    size_t compute;
};

// A tensor's bytes [start, end) in its file, and whether anybody will look at them.
struct caravan_range {
    int64_t start;
    int64_t end;
    int32_t is_needed;
};

// Called before the first read of a needed tensor, by its number in caravan_partial: blocks until it is there, and
// gives the descriptor of a file of the same layout that has it, or -1 to fail the read.
typedef int (*caravan_provide)(size_t tensor);

// A file of which only a part is read: its first bytes, read already, and all of its tensors, ascending and apart.
struct caravan_partial {
    const char * header;
    size_t n_header;
    const struct caravan_range * tensors;
    size_t n_tensors;
    caravan_provide provide;  // NULL: all is there
};

// A text to make tokens of, and what llama_tokenize shall do beside.
struct caravan_text {
    const char * bytes;
    int32_t n_bytes;
    int32_t add_special;
    int32_t parse_special;
};

// Source: ggml_abort_callback_t in ggml/include/ggml.h.
typedef void (*caravan_abort_callback)(const char * message);

// Once per process: NULL, or what differs between the running library and the one this was built for.
CARAVAN_API const char * caravan_init(const struct caravan_host * host, void * any_device);
// A device that stands for layers [start, end) elsewhere; more than max_step_bytes in one step fail the step.
CARAVAN_API void * caravan_wire_new(const char * name, int start, int end, size_t max_step_bytes);
CARAVAN_API void caravan_wire_free(void * wire);
CARAVAN_API void * caravan_wire_device(void * wire);
CARAVAN_API void * caravan_wire_buffer_type(void * wire);
// From now on a model is loaded, or no more (0). Meanwhile weights are brought there in llama.cpp's quickest way.
CARAVAN_API void caravan_wire_loading(void * wire, int is_loading);
// Bytes of the weight of that name that llama.cpp has set there, since the wire was made.
CARAVAN_API int64_t caravan_wire_weight_bytes(void * wire, const char * name);
CARAVAN_API void caravan_wire_begin(void * wire, const struct caravan_crossing * incoming, size_t n);
CARAVAN_API void caravan_wire_begin_made_up(void * wire);  // a step to be timed: what should arrive is made up
// What crosses to a wire is made behind this fence, where that can be, until told otherwise (NULL, NULL). The scheduler
// must be that of the context about to compute.
CARAVAN_API void caravan_wire_hold(void * wire, void * fence, void * sched);
CARAVAN_API const char * caravan_wire_end(void * wire);  // NULL, or the step's first fault; valid until the next begin
CARAVAN_API size_t caravan_wire_captured(void * wire, struct caravan_crossing * out, size_t capacity);
// The real device, limited to ops of layers [start, end) and of no layer.
CARAVAN_API void * caravan_fence_new(void * device, int start, int end);
CARAVAN_API void caravan_fence_free(void * fence);
// The real device is one of several cards that share tensors: what the fence is to hand out as its buffer type.
CARAVAN_API void caravan_fence_join(void * fence, void * buffer_type);
// A buffer type that stands in for one of cards that share tensors, `split` (data: split_data) being the rule by which
// they do, and weighs the part of one card (from 0; n_cards: all as one). For loads that allocate nothing.
CARAVAN_API void * caravan_weigher_new(void * joined, void * const * cards, size_t n_cards, void * split,
                                       void * split_data);
CARAVAN_API void caravan_weigher_free(void * weigher);
CARAVAN_API void * caravan_weigher_buffer_type(void * weigher);
CARAVAN_API void caravan_weigher_weigh(void * weigher, size_t card);
// Of what was weighed since, the first tensor that the card gets nothing of; "": none, valid until it weighs again.
CARAVAN_API const char * caravan_weigher_left_out(void * weigher);
CARAVAN_API int caravan_layer_of(const void * tensor);  // -1: of no layer
CARAVAN_API size_t caravan_memory_breakdown(void * context, struct caravan_bytes * out, size_t capacity);
// A FILE* over an open file; all that is given here is borrowed until it is closed. NULL: not on this system.
CARAVAN_API void * caravan_partial_open(int fd, const struct caravan_partial * what);
CARAVAN_API void * caravan_partial_stream(void * partial);
CARAVAN_API int64_t caravan_partial_read_bytes(void * partial);
CARAVAN_API int64_t caravan_partial_skipped_bytes(void * partial);
CARAVAN_API void caravan_partial_close(void * partial);
// As the running llama_tokenize, whose address is given; INT32_MIN: it threw, since the vocabulary lacks something.
CARAVAN_API int32_t caravan_tokenize(void * function, const void * vocabulary, const struct caravan_text * text,
                                     int32_t * tokens, int32_t capacity);
// For ggml_set_abort_callback.
CARAVAN_API caravan_abort_callback caravan_on_abort(void);
// On a thread that refuses, an assertion and a use of a missing tensor are exceptions in whoever caused them: 1 begins
// that, -1 ends it. None must get as far as here.
CARAVAN_API void caravan_refuse(int change);
}
