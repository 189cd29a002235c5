// SPDX-License-Identifier: MIT
//
// llama_tokenize with its exceptions caught: of a SentencePiece vocabulary it takes for granted that there is a token
// for each byte, and throws where there is none (llama_vocab::byte_to_token), which would end the process, as would
// what it asserts (refusals.cpp).
#include <cstdint>

#include "caravan_wire.h"

namespace {

// Source: llama_tokenize in include/llama.h.
using tokenize_function = int32_t (*)(const void * vocabulary, const char * text, int32_t n_bytes, int32_t * tokens,
                                      int32_t capacity, bool add_special, bool parse_special);

}  // namespace

int32_t caravan_tokenize(void * function, const void * vocabulary, const struct caravan_text * text, int32_t * tokens,
                         int32_t capacity) {
    const auto tokenize = reinterpret_cast<tokenize_function>(function);
    caravan_refuse(1);
    int32_t n_tokens = INT32_MIN;
    try {
        n_tokens = tokenize(vocabulary, text->bytes, text->n_bytes, tokens, capacity, text->add_special != 0,
                            text->parse_special != 0);
    } catch (...) {
        // As it was.
    }
    caravan_refuse(-1);
    return n_tokens;
}
