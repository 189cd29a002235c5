// SPDX-License-Identifier: MIT
//
// One step of a wire, free of ggml's callbacks: what arrived for it, what it captured, and its first fault.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "caravan_wire.h"
#include "ggml_abi.h"

namespace caravan {

// Both neighbours name a crossing tensor alike: ubatch within the step, name of its storage, byte offset there, shape
// (the same bytes may be read in two shapes).
std::string crossing_key(unsigned ubatch, const tensor * t);

// What is missing must not look like a value: floats become NaNs. Integers become 0, since most are indices and any
// other could abort llama.cpp before the step's fault is reported.
void fill_missing(const tensor * t, void * data, size_t size);

// Values for a step that is only tried. Floats are pseudo-random, so that a router spreads its tokens over experts:
// either sign, magnitude in [0.5, 1). Integers are 0. The same place of a tensor always has the same value.
void fill_made_up(const tensor * t, void * data, size_t offset, size_t size);

class wire_step {
  public:
    explicit wire_step(size_t max_bytes) : max_bytes_(max_bytes) {}

    // Forgets the step before and takes in what arrived; the bytes stay the caller's.
    void begin(const caravan_crossing * incoming, size_t n);
    // The same for a step that nothing arrived for, and that is not to notice: every value it asks for is made up.
    void begin_made_up();
    // The first fault, or nullptr. What arrived and was never asked for is a fault too: the neighbour built another
    // graph.
    const char * end();

    // ggml is cutting a graph: what is computed next belongs to a new ubatch.
    void graph_cut();
    // A split that starts with this node is being "computed". A graph that is used again starts with nodes seen before:
    // that, too, is a new ubatch. What was captured since the last split belongs to this one's.
    void computing(const tensor * first_node);
    // Keeps the value of a tensor that the real device hands to the wire.
    void capture(const tensor * src);
    // Gives the value of a tensor that the wire stands for: bytes [offset, offset + size) of its span.
    void supply(const tensor * t, void * data, size_t offset, size_t size);

    size_t captured(caravan_crossing * out, size_t capacity);

  private:
    struct given {
        caravan_crossing crossing;
        bool asked;
    };
    struct kept {
        std::string key;
        int32_t type;
        int64_t ne[max_dims];
        size_t offset;
        size_t size;
    };

    void fault(std::string message);
    const given * find(const tensor * t, std::string & why);
    unsigned ubatch();

    std::mutex mutex_;
    const size_t max_bytes_;
    // Ubatches in which something crossed, so far. Others (a cache is shifted) need not be alike for both neighbours.
    unsigned n_ubatches_ = 0;
    bool is_new_ubatch_ = true;
    bool is_graph_cut_ = false;
    bool is_made_up_ = false;
    std::unordered_set<const tensor *> splits_seen_;
    std::unordered_map<std::string, given> given_;
    std::vector<const tensor *> unassigned_;  // captured since the last split, parallel to the tail of kept_
    std::vector<kept> kept_;
    std::unordered_map<std::string, size_t> kept_at_;  // index by key
    std::vector<uint8_t> arena_;                       // what was captured; grows to the largest step and stays
    std::vector<uint8_t> span_;                        // one strided tensor as it lies in memory
    std::string fault_;
};

}  // namespace caravan
