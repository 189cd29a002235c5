// SPDX-License-Identifier: MIT
//
// The part of ggml's backend interface (API version 2) that a wire and a fence have to speak, declared here so that
// building needs no llama.cpp. Field order and types are facts of that ABI; `caravan_check` compares what can be
// compared with the running library before anything here is used.
//
// Source: ggml/include/ggml.h, ggml/include/ggml-backend.h and ggml/src/ggml-backend-impl.h of llama.cpp as vendored
// in llama-cpp-python 0.3.36.
#pragma once

#include <cstddef>
#include <cstdint>

namespace caravan {

constexpr int backend_api_version = 2;
constexpr int max_dims = 4;
constexpr int max_src = 10;
constexpr int max_op_params_bytes = 64;
constexpr int max_name = 64;

enum type : int { type_f32 = 0, type_f16 = 1, type_i32 = 26, type_i64 = 27, type_bf16 = 30 };
enum status : int { status_failed = -1, status_success = 0 };
enum device_type : int { device_type_cpu = 0, device_type_gpu = 1 };

// Set by llama.cpp on tensors that the caller of a graph fills in (token ids, positions, masks).
constexpr int32_t tensor_flag_input = 1;

struct buffer;
struct buffer_type;
struct backend;
struct device;
struct event;
struct scheduler;

struct tensor {
    int type;
    struct buffer * buffer;
    int64_t ne[max_dims];
    size_t nb[max_dims];
    int op;
    int32_t op_params[max_op_params_bytes / sizeof(int32_t)];
    int32_t flags;
    tensor * src[max_src];
    tensor * view_src;
    size_t view_offs;
    void * data;
    char name[max_name];
    void * extra;
    char padding[8];
};

struct hash_set {
    size_t size;
    uint32_t * used;
    tensor ** keys;
};

// Source: struct ggml_cgraph in ggml/src/ggml-impl.h.
struct graph {
    int size;
    int n_nodes;
    int n_leafs;
    tensor ** nodes;
    tensor ** grads;
    tensor ** grad_accs;
    tensor ** leafs;
    int32_t * use_counts;
    hash_set visited;
    int order;
    uint64_t uid;
};

struct buffer_type_iface {
    const char * (*get_name)(buffer_type *);
    buffer * (*alloc_buffer)(buffer_type *, size_t size);
    size_t (*get_alignment)(buffer_type *);
    size_t (*get_max_size)(buffer_type *);
    size_t (*get_alloc_size)(buffer_type *, const tensor *);
    bool (*is_host)(buffer_type *);
};

struct buffer_type {
    buffer_type_iface iface;
    caravan::device * device;
    void * context;
};

struct buffer_iface {
    void (*free_buffer)(buffer *);
    void * (*get_base)(buffer *);
    int (*init_tensor)(buffer *, tensor *);
    void (*memset_tensor)(buffer *, tensor *, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(buffer *, tensor *, const void * data, size_t offset, size_t size);
    void (*get_tensor)(buffer *, const tensor *, void * data, size_t offset, size_t size);
    void (*set_tensor_2d)(buffer *, tensor *, const void *, size_t, size_t, size_t, size_t, size_t);
    void (*get_tensor_2d)(buffer *, const tensor *, void *, size_t, size_t, size_t, size_t, size_t);
    bool (*cpy_tensor)(buffer *, const tensor * src, tensor * dst);
    void (*clear)(buffer *, uint8_t value);
    void (*reset)(buffer *);
};

struct buffer {
    buffer_iface iface;
    buffer_type * buft;
    void * context;
    size_t size;
    int usage;
};

struct backend_iface {
    const char * (*get_name)(backend *);
    void (*free)(backend *);
    void (*set_tensor_async)(backend *, tensor *, const void *, size_t, size_t);
    void (*get_tensor_async)(backend *, const tensor *, void *, size_t, size_t);
    void (*set_tensor_2d_async)(backend *, tensor *, const void *, size_t, size_t, size_t, size_t, size_t);
    void (*get_tensor_2d_async)(backend *, const tensor *, void *, size_t, size_t, size_t, size_t, size_t);
    bool (*cpy_tensor_async)(backend * from, backend * to, const tensor * src, tensor * dst);
    void (*synchronize)(backend *);
    void * (*graph_plan_create)(backend *, const graph *);
    void (*graph_plan_free)(backend *, void *);
    void (*graph_plan_update)(backend *, void *, const graph *);
    int (*graph_plan_compute)(backend *, void *);
    int (*graph_compute)(backend *, graph *);
    void (*event_record)(backend *, event *);
    void (*event_wait)(backend *, event *);
    void (*graph_optimize)(backend *, graph *, void * params);
};

struct backend {
    uint8_t (*guid)[16];
    backend_iface iface;
    caravan::device * device;
    void * context;
};

struct device_caps {
    bool async;
    bool host_buffer;
    bool buffer_from_host_ptr;
    bool events;
    bool mmap_support;
};

struct device_props {
    const char * name;
    const char * description;
    size_t memory_free;
    size_t memory_total;
    int type;
    const char * device_id;
    device_caps caps;
};

struct device_iface {
    const char * (*get_name)(device *);
    const char * (*get_description)(device *);
    void (*get_memory)(device *, size_t * free, size_t * total);
    int (*get_type)(device *);
    void (*get_props)(device *, device_props *);
    backend * (*init_backend)(device *, const char * params);
    buffer_type * (*get_buffer_type)(device *);
    buffer_type * (*get_host_buffer_type)(device *);
    buffer * (*buffer_from_host_ptr)(device *, void * ptr, size_t size, size_t max_tensor_size);
    bool (*supports_op)(device *, const tensor *);
    bool (*supports_buft)(device *, buffer_type *);
    bool (*offload_op)(device *, const tensor *);
    event * (*event_new)(device *);
    void (*event_free)(device *, event *);
    void (*event_synchronize)(device *, event *);
};

struct event {
    caravan::device * device;
    void * context;
};

struct registry;

struct registry_iface {
    const char * (*get_name)(registry *);
    size_t (*get_device_count)(registry *);
    device * (*get_device)(registry *, size_t index);
    void * (*get_proc_address)(registry *, const char * name);
};

struct registry {
    int api_version;
    registry_iface iface;
    void * context;
};

struct device {
    device_iface iface;
    registry * reg;
    void * context;
};

}  // namespace caravan
