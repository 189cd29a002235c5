// SPDX-License-Identifier: MIT
#include "wire.h"

#include <cstring>
#include <utility>

#include "host.h"

namespace caravan {

namespace {

size_t element_size(int type) {
    switch (type) {
        case type_f32:
        case type_i32: return 4;
        case type_f16:
        case type_bf16: return 2;
        case type_i64: return 8;
        default: return 0;  // blocked types have no single element and are not carried
    }
}

size_t packed_size(const tensor * t) {
    return element_size(t->type) * static_cast<size_t>(t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]);
}

bool is_packed(const tensor * t) {
    size_t expected = element_size(t->type);
    for (int d = 0; d < max_dims; d++) {
        if (t->ne[d] != 1 && t->nb[d] != expected) {
            return false;
        }
        expected *= static_cast<size_t>(t->ne[d]);
    }
    return true;
}

// Calls body(offset in the strided span, offset in packed bytes, bytes) for every run of contiguous elements.
template <typename Body> void for_each_run(const tensor * t, Body body) {
    const size_t element = element_size(t->type);
    const bool rows_whole = t->nb[0] == element;
    const int64_t n_runs = rows_whole ? 1 : t->ne[0];
    const size_t run = rows_whole ? element * static_cast<size_t>(t->ne[0]) : element;
    size_t packed = 0;
    for (int64_t i3 = 0; i3 < t->ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < t->ne[2]; i2++) {
            for (int64_t i1 = 0; i1 < t->ne[1]; i1++) {
                for (int64_t i0 = 0; i0 < n_runs; i0++, packed += run) {
                    const size_t strided = static_cast<size_t>(i3) * t->nb[3] + static_cast<size_t>(i2) * t->nb[2] +
                                           static_cast<size_t>(i1) * t->nb[1] + static_cast<size_t>(i0) * t->nb[0];
                    body(strided, packed, run);
                }
            }
        }
    }
}

bool same_shape(const int64_t * a, const int64_t * b) {
    return std::memcmp(a, b, sizeof(int64_t) * max_dims) == 0;
}

// Bits without a pattern, from a place. Source: the finaliser of MurmurHash3.
uint32_t scrambled(size_t place) {
    uint32_t bits = static_cast<uint32_t>(place) * 0x9e3779b9u;
    bits = (bits ^ (bits >> 16)) * 0x85ebca6bu;
    bits = (bits ^ (bits >> 13)) * 0xc2b2ae35u;
    return bits ^ (bits >> 16);
}

// Floats of a width, by their bits: sign and fraction at random, the exponent that of 0.5.
template <typename Bits>
void fill_floats(void * data, size_t offset, size_t size, Bits sign, Bits half, Bits fraction) {
    uint8_t * target = static_cast<uint8_t *>(data);
    for (size_t at = 0; at + sizeof(Bits) <= size; at += sizeof(Bits)) {
        const uint32_t random = scrambled((offset + at) / sizeof(Bits));
        const Bits value = static_cast<Bits>((random & 1 ? sign : 0) | half | ((random >> 1) & fraction));
        std::memcpy(target + at, &value, sizeof value);
    }
}

std::string shape_text(const int64_t * ne) {
    std::string s = "[";
    for (int d = 0; d < max_dims; d++) {
        s += (d == 0 ? "" : ", ") + std::to_string(ne[d]);
    }
    return s + "]";
}

}  // namespace

void fill_missing(const tensor * t, void * data, size_t size) {
    const bool is_integer = t->type == type_i32 || t->type == type_i64;
    std::memset(data, is_integer ? 0 : 0xff, size);
}

void fill_made_up(const tensor * t, void * data, size_t offset, size_t size) {
    switch (t->type) {
        case type_f32: fill_floats<uint32_t>(data, offset, size, 0x80000000u, 0x3f000000u, 0x7fffffu); break;
        case type_f16: fill_floats<uint16_t>(data, offset, size, 0x8000, 0x3800, 0x3ff); break;
        case type_bf16: fill_floats<uint16_t>(data, offset, size, 0x8000, 0x3f00, 0x7f); break;
        default: std::memset(data, 0, size);
    }
}

std::string crossing_key(unsigned ubatch, const tensor * t) {
    const tensor * storage = t->view_src != nullptr ? t->view_src : t;
    const size_t offset = t->view_src != nullptr ? t->view_offs : 0;
    std::string key = std::to_string(ubatch) + "/" + storage->name + "@" + std::to_string(offset) + ":";
    for (int d = 0; d < max_dims; d++) {
        key += (d == 0 ? "" : "x") + std::to_string(t->ne[d]);
    }
    return key;
}

void wire_step::fault(std::string message) {
    if (fault_.empty()) {
        fault_ = std::move(message);
    }
}

void wire_step::begin(const caravan_crossing * incoming, size_t n) {
    const std::lock_guard<std::mutex> lock(mutex_);
    n_ubatches_ = 0;
    is_new_ubatch_ = true;
    is_graph_cut_ = false;
    is_made_up_ = false;
    splits_seen_.clear();
    given_.clear();
    unassigned_.clear();
    kept_.clear();
    kept_at_.clear();
    arena_.clear();
    fault_.clear();
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        const caravan_crossing & c = incoming[i];
        total += c.size;
        if (!given_.emplace(c.key, given{ c, false }).second) {
            fault(std::string("crossing tensor ") + c.key + " arrived twice");
        }
    }
    if (total > max_bytes_) {
        fault("crossing tensors of " + std::to_string(total) + " bytes arrived, at most " + std::to_string(max_bytes_) +
              " are allowed in a step");
    }
}

void wire_step::begin_made_up() {
    begin(nullptr, 0);
    const std::lock_guard<std::mutex> lock(mutex_);
    is_made_up_ = true;
}

const char * wire_step::end() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto & [key, g] : given_) {
        if (!g.asked) {
            fault("crossing tensor " + key + " arrived and was never asked for");
        }
    }
    if (!unassigned_.empty()) {
        fault("crossing tensor " + kept_.back().key + " was captured for a split that never ran");
    }
    return fault_.empty() ? nullptr : fault_.c_str();
}

void wire_step::graph_cut() {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_graph_cut_ = true;
}

unsigned wire_step::ubatch() {
    if (is_new_ubatch_) {
        is_new_ubatch_ = false;
        n_ubatches_++;
    }
    return n_ubatches_ - 1;
}

void wire_step::computing(const tensor * first_node) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (is_graph_cut_ || !splits_seen_.insert(first_node).second) {
        splits_seen_ = { first_node };
        is_graph_cut_ = false;
        is_new_ubatch_ = true;
    }
    size_t n = kept_.size() - unassigned_.size();
    for (const tensor * src : unassigned_) {
        kept & k = kept_[n];
        k.key = crossing_key(ubatch(), src);
        const auto [at, is_new] = kept_at_.emplace(k.key, n);
        if (is_new) {
            n++;
            continue;
        }
        // Several layers beyond the boundary read the same cache view, each through a node of its own: it crosses once.
        const kept & other = kept_[at->second];
        if (k.type != other.type || !same_shape(k.ne, other.ne) ||
            std::memcmp(arena_.data() + k.offset, arena_.data() + other.offset, k.size) != 0) {
            fault("crossing tensor " + k.key + " was captured twice with different values");
        }
        kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(n));
    }
    unassigned_.clear();
}

void wire_step::capture(const tensor * src) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const size_t size = packed_size(src);
    if (size == 0) {
        fault(std::string("crossing tensor ") + src->name + " has ggml type " + std::to_string(src->type) +
              ", which cannot cross");
        return;
    }
    const size_t offset = arena_.size();
    if (offset + size > max_bytes_) {
        fault(std::string("crossing tensor ") + src->name + " of " + std::to_string(size) + " bytes makes more than " +
              std::to_string(max_bytes_) + " bytes in one step");
        return;
    }
    arena_.resize(offset + size);
    if (is_packed(src)) {
        host.tensor_get(src, arena_.data() + offset, 0, size);
    } else {
        span_.resize(host.nbytes(src));
        host.tensor_get(src, span_.data(), 0, span_.size());
        for_each_run(src, [&](size_t strided, size_t packed, size_t run) {
            std::memcpy(arena_.data() + offset + packed, span_.data() + strided, run);
        });
    }
    kept k = { src->name, src->type, {}, offset, size };
    std::memcpy(k.ne, src->ne, sizeof k.ne);
    kept_.push_back(std::move(k));
    unassigned_.push_back(src);
}

const wire_step::given * wire_step::find(const tensor * t, std::string & why) {
    const std::string key = crossing_key(ubatch(), t);
    const auto it = given_.find(key);
    if (it == given_.end()) {
        why = "crossing tensor " + key + " was asked for and did not arrive";
        return nullptr;
    }
    given & g = it->second;
    if (g.crossing.type != t->type || !same_shape(g.crossing.ne, t->ne) || g.crossing.size != packed_size(t)) {
        why = "crossing tensor " + key + " arrived as type " + std::to_string(g.crossing.type) + " " +
              shape_text(g.crossing.ne) + " of " + std::to_string(g.crossing.size) + " bytes, expected type " +
              std::to_string(t->type) + " " + shape_text(t->ne);
        return nullptr;
    }
    g.asked = true;
    return &g;
}

void wire_step::supply(const tensor * t, void * data, size_t offset, size_t size) {
    if (size == 0) {
        return;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (is_made_up_) {
        fill_made_up(t, data, offset, size);
        return;
    }
    std::string why;
    const given * g = find(t, why);
    const bool packed = is_packed(t);
    if (g != nullptr && (packed ? offset + size > g->crossing.size : offset != 0 || size != host.nbytes(t))) {
        why = "bytes " + std::to_string(offset) + " to " + std::to_string(offset + size) + " of crossing tensor " +
              t->name + " cannot be given";
        g = nullptr;
    }
    if (g == nullptr) {
        fill_missing(t, data, size);
        fault(std::move(why));
        return;
    }
    const uint8_t * bytes = static_cast<const uint8_t *>(g->crossing.data);
    if (packed) {
        std::memcpy(data, bytes + offset, size);
        return;
    }
    uint8_t * target = static_cast<uint8_t *>(data);
    for_each_run(t, [&](size_t strided, size_t at, size_t run) { std::memcpy(target + strided, bytes + at, run); });
}

size_t wire_step::captured(caravan_crossing * out, size_t capacity) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < kept_.size() && i < capacity; i++) {
        const kept & k = kept_[i];
        out[i] = { k.key.c_str(), k.type, { k.ne[0], k.ne[1], k.ne[2], k.ne[3] }, arena_.data() + k.offset, k.size };
    }
    return kept_.size();
}

}  // namespace caravan
