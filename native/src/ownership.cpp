// SPDX-License-Identifier: MIT
//
// Who owns an op: the layer it belongs to decides, never the order in which ggml's scheduler meets it. Both
// neighbours of a boundary answer alike because both build the same graph and look only at names, edges, and the order
// in which tensors were made.
//
// llama.cpp names what it builds (llm_graph_cb): "kqv_out-7" in layer 7, weights "blk.7.attn_q.weight", cache tensors
// "cache_k_l7". A node with no such name was made on the way to one that has: it belongs to the layer of the next one
// made in its context, unless it works on a weight. Names that ggml derives ("l_out-6 (view)") say where a value comes
// from, not where it is used, and neither do its sources: a layer may work on nothing but masks and an earlier layer's
// choices (shared indexers).
#include "ownership.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "host.h"

namespace caravan {

namespace {

// "kqv_out-7" -> 7
int layer_in_suffix(const char * name) {
    const char * dash = std::strrchr(name, '-');
    if (dash == nullptr || dash[1] < '0' || dash[1] > '9') {
        return no_layer;
    }
    char * end = nullptr;
    const long layer = std::strtol(dash + 1, &end, 10);
    return *end == '\0' ? static_cast<int>(layer) : no_layer;
}

// "blk.7.attn_q.weight" -> 7, "cache_k_l7" and what is derived from it -> 7
int layer_of_storage(const char * name) {
    if (std::strncmp(name, "blk.", 4) == 0) {
        return std::atoi(name + 4);
    }
    if (std::strncmp(name, "cache_", 6) == 0) {
        const char * l = std::strstr(name, "_l");
        if (l != nullptr && l[2] >= '0' && l[2] <= '9') {
            return std::atoi(l + 2);
        }
    }
    return no_layer;
}

// A nameless op on a layer's weight is that layer's: BERT ends a layer with the bias of a norm.
int layer_of_weights(const tensor * node) {
    for (const tensor * src : node->src) {
        if (src != nullptr && std::strncmp(src->name, "blk.", 4) == 0) {
            return layer_of_storage(src->name);
        }
    }
    return no_layer;
}

// The rows that the output needs are picked from the last layer's hidden state with an input named "...out_ids".
bool picks_output_rows(const tensor * t) {
    return t->op == host.op_get_rows && t->src[1] != nullptr && std::strstr(t->src[1]->name, "out_ids") != nullptr;
}

// Source: struct ggml_object in ggml/src/ggml.c. Every tensor lies right behind one, in the order they were made.
struct object {
    size_t offset;
    size_t size;
    const object * next;
    int type;
    char padding[4];
};

constexpr int object_type_tensor = 0;

int next_layer_made(const tensor * node) {
    const object * made = reinterpret_cast<const object *>(node) - 1;
    for (made = made->next; made != nullptr; made = made->next) {
        if (made->type == object_type_tensor) {
            const tensor * t = reinterpret_cast<const tensor *>(made + 1);
            const int layer = picks_output_rows(t) ? last_layer : layer_in_suffix(t->name);
            if (layer != no_layer) {
                return layer;
            }
        }
    }
    return no_layer;
}

int layer_as_source(const tensor * t) {
    if (is_loose_weight(t)) {
        return std::strncmp(t->name, "output", 6) == 0 ? last_layer : 0;
    }
    return told_layer(t);
}

// Nameless nodes sit a few edges from named ones, so this search is short; `seen` bounds it by the graph's size.
int highest_layer_of_sources(const tensor * node) {
    int layer = no_layer;
    std::unordered_set<const tensor *> seen = { node };
    std::vector<const tensor *> open = { node };
    const auto visit = [&](const tensor * t) {
        if (t == nullptr || !seen.insert(t).second) {
            return;
        }
        const int found = layer_as_source(t);
        if (found == no_layer) {
            open.push_back(t);
        }
        layer = std::max(layer, found);
    };
    while (!open.empty()) {
        const tensor * t = open.back();
        open.pop_back();
        visit(t->view_src);
        for (const tensor * src : t->src) {
            visit(src);
        }
    }
    return layer;
}

}  // namespace

// Source: enum ggml_op in ggml/include/ggml.h, by the names ggml_op_name gives; see host.cpp.
bool is_view_op(const tensor * t) {
    return t->view_src != nullptr &&
           std::find(host.view_ops, host.view_ops + n_view_ops, t->op) != host.view_ops + n_view_ops;
}

bool is_loose_weight(const tensor * t) {
    const bool is_weight = std::strstr(t->name, ".weight") != nullptr || std::strstr(t->name, ".bias") != nullptr;
    return is_weight && layer_of_storage(t->name) == no_layer;
}

int told_layer(const tensor * t) {
    if (picks_output_rows(t)) {
        return last_layer;
    }
    const int layer = layer_of_storage(t->name);
    return layer != no_layer ? layer : layer_in_suffix(t->name);
}

int layer_of(const tensor * node) {
    const int told = told_layer(node);
    if (told != no_layer) {
        return told;
    }
    const int weights = layer_of_weights(node);
    if (weights != no_layer) {
        return weights;
    }
    const int sources = highest_layer_of_sources(node);
    if (sources == no_layer) {
        return no_layer;
    }
    const int next = next_layer_made(node);
    return next != no_layer ? next : sources;
}

const tensor * op_that_made(const tensor * t) {
    while (is_view_op(t) && t->src[0] != nullptr) {
        t = t->src[0];
    }
    return t;
}

int layer_that_made(const tensor * t) {
    return layer_of(op_that_made(t));
}

}  // namespace caravan
