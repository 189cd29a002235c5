// SPDX-License-Identifier: MIT
//
// Who owns an op: the layer it belongs to decides, never the order in which ggml's scheduler meets it. Both
// neighbours of a boundary answer alike because both build the same graph and look only at names, edges, and the order
// in which tensors were made.
//
// llama.cpp names what it builds (llm_graph_cb): "kqv_out-7" in layer 7, weights "blk.7.attn_q.weight", cache tensors
// "cache_k_l7"; ggml derives names for views, reshapes and copies from their source. A node with no such name was made
// on the way to one that has: it belongs to the layer of the next one made in its context. What it is computed from
// would not tell: a layer may work on nothing but masks and an earlier layer's choices (shared indexers).
#include "ownership.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <unordered_set>
#include <vector>

#include "host.h"

namespace caravan {

namespace {

bool starts_number(const char * s) {
    return std::isdigit(static_cast<unsigned char>(*s)) != 0;
}

int layer_in_name(const char * name) {
    if (std::strncmp(name, "blk.", 4) == 0) {
        return std::atoi(name + 4);
    }
    if (const char * cache = std::strstr(name, "cache_")) {
        const char * l = std::strstr(cache, "_l");
        if (l != nullptr && starts_number(l + 2)) {
            return std::atoi(l + 2);
        }
    }
    for (const char * dash = std::strchr(name, '-'); dash != nullptr; dash = std::strchr(dash + 1, '-')) {
        if (starts_number(dash + 1)) {
            return std::atoi(dash + 1);
        }
    }
    return no_layer;
}

// The rows that the output needs are picked from the last layer's hidden state with an input named "...out_ids".
bool picks_output_rows(const tensor * t) {
    return t->op == host.op_get_rows && t->src[1] != nullptr && std::strstr(t->src[1]->name, "out_ids") != nullptr;
}

// Weights outside the layers are the embedding's, or the output's; the latter are only met beside the last layer.
bool is_weight(const tensor * t) {
    return std::strstr(t->name, ".weight") != nullptr || std::strstr(t->name, ".bias") != nullptr;
}

int own_layer(const tensor * t) {
    if (picks_output_rows(t)) {
        return last_layer;
    }
    const int layer = layer_in_name(t->name);
    return layer == no_layer && is_weight(t) ? 0 : layer;
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
            const int layer = own_layer(reinterpret_cast<const tensor *>(made + 1));
            if (layer != no_layer) {
                return layer;
            }
        }
    }
    return no_layer;
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
        const int found = own_layer(t);
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

int layer_of(const tensor * node) {
    const int own = own_layer(node);
    if (own != no_layer) {
        return own;
    }
    const int sources = highest_layer_of_sources(node);
    if (sources == no_layer) {
        return no_layer;
    }
    const int next = next_layer_made(node);
    return next != no_layer ? next : sources;
}

}  // namespace caravan
