// SPDX-License-Identifier: MIT
//
// The running ggml's and llama's functions, typed. Filled once by caravan_init, read-only afterwards.
#pragma once

#include "ggml_abi.h"

namespace caravan {

// RESHAPE, VIEW, PERMUTE, TRANSPOSE: they compute nothing.
constexpr int n_view_ops = 4;

struct host_functions {
    buffer * (*buffer_init)(buffer_type *, buffer_iface, void * context, size_t size);
    void (*tensor_get)(const tensor *, void * data, size_t offset, size_t size);
    void (*synchronize)(backend *);
    int (*graph_n_nodes)(graph *);
    tensor * (*graph_node)(graph *, int);
    size_t (*nbytes)(const tensor *);
    size_t (*tensor_overhead)();
    int (*sched_n_backends)(scheduler *);
    backend * (*sched_backend)(scheduler *, int);
    void (*sched_set_backend)(scheduler *, tensor *, backend *);
    void * memory_breakdown;
    int op_get_rows;
    int view_ops[n_view_ops];
    int ops_view[4];
};

extern host_functions host;

}  // namespace caravan
