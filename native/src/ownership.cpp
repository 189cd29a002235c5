// SPDX-License-Identifier: MIT
//
// Who owns an op: the layer it belongs to decides, never the order in which ggml's scheduler meets it. Both
// neighbours of a boundary answer alike because both build the same graph and look only at names and edges.
//
// llama.cpp names what it builds (llm_graph_cb): "kqv_out-7" in layer 7, weights "blk.7.attn_q.weight", cache tensors
// "cache_k_l7"; ggml derives names for views, reshapes and copies from their source. A node with no such name belongs
// to the highest layer among what it is computed from.
#include "ownership.h"

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

int own_layer(const tensor * t) {
    return picks_output_rows(t) ? last_layer : layer_in_name(t->name);
}

}  // namespace

int layer_of(const tensor * node) {
    int layer = own_layer(node);
    if (layer != no_layer) {
        return layer;
    }
    // Nameless nodes sit a few edges from named ones, so this search is short; `seen` bounds it by the graph's size.
    std::unordered_set<const tensor *> seen = { node };
    std::vector<const tensor *> open = { node };
    const auto visit = [&](const tensor * t) {
        if (t == nullptr || !seen.insert(t).second) {
            return;
        }
        const int found = own_layer(t);
        if (found == no_layer) {
            open.push_back(t);
        } else if (found > layer) {
            layer = found;
        }
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

}  // namespace caravan
