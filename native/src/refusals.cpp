// SPDX-License-Identifier: MIT
//
// llama.cpp asserts of a model's metadata what it could refuse, and takes tensors to be there that a header lacks. Both
// end the process. Where a header is only looked at, they become exceptions, which llama_model_load_from_file and
// llama_init_from_model catch, and refuse. What was half made is not freed. Elsewhere, and on other threads, a process
// still ends.
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <stdexcept>

#ifdef __linux__
#include <signal.h>
#endif

#include "caravan_wire.h"

namespace {

thread_local int n_refusing = 0;

// Source: ggml_abort in ggml/src/ggml.c, which prints nothing where there is a callback, and ends the process when
// that returns. A message begins with a path, ":", line and ": ".
void on_abort(const char * message) {
    const char * start = message;
    for (const char * at = message; *at != '\0' && !(at[0] == ':' && at[1] == ' '); ++at) {
        if (*at == '/' || *at == '\\') {
            start = at + 1;
        }
    }
    if (n_refusing > 0) {
        throw std::runtime_error(start);
    }
    std::fprintf(stderr, "%s\n", message);
}

#ifdef __linux__

// A field of a tensor that is none is read near address 0. Any other fault may have spoilt something: that one ends
// the process.
constexpr uintptr_t no_tensor_bytes = 4096;

std::mutex mutex;
int n_threads_refusing = 0;
struct sigaction before;

// Thrown from where ggml, which is C, reads; frames of C++ above it are at calls, as for any exception. A fault in a
// frame of C++ itself ends in std::terminate.
void on_fault(int number, siginfo_t * info, void *) {
    if (n_refusing > 0 && reinterpret_cast<uintptr_t>(info->si_addr) < no_tensor_bytes) {
        throw std::runtime_error("a tensor is missing that the architecture cannot do without");
    }
    // The instruction is tried again, and faults as if this had never been.
    sigaction(number, &before, nullptr);
}

void catch_faults(int change) {
    const std::lock_guard<std::mutex> lock(mutex);
    const int n_before = n_threads_refusing;
    n_threads_refusing += change;
    if (n_before == 0 && change > 0) {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        // It is left by an exception, so it may not stay blocked.
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before);
    } else if (n_threads_refusing == 0 && change < 0) {
        sigaction(SIGSEGV, &before, nullptr);
    }
}

#else

void catch_faults(int) {}

#endif

}  // namespace

caravan_abort_callback caravan_on_abort() {
    return on_abort;
}

void caravan_refuse(int change) {
    n_refusing += change;
    catch_faults(change);
}
