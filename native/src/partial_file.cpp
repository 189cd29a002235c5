// SPDX-License-Identifier: MIT
//
// A model file as a FILE* for llama_model_load_from_file_ptr, of which only a stage's own bytes are ever read.
//
// llama.cpp reads every tensor of a file, those on wires too: into a throw-away buffer (llama_model_loader::
// load_all_data) that a wire then ignores. So a tensor to skip is reported as read, and whatever bytes the stream's
// buffer holds are its value. The header was read and checked by the caller; everything else is read from the file, or
// from whichever file of the same layout the caller names for a tensor once it is there.
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "caravan_wire.h"

// Streams with functions of our own: fopencookie in glibc, funopen in the BSDs. Elsewhere there are none.
#if defined(__GLIBC__)
#define CARAVAN_FOPENCOOKIE
#elif defined(__APPLE__) || defined(__FreeBSD__)
#define CARAVAN_FUNOPEN
#endif

#if defined(CARAVAN_FOPENCOOKIE) || defined(CARAVAN_FUNOPEN)

#include <sys/stat.h>
#include <unistd.h>

namespace {

#ifdef CARAVAN_FOPENCOOKIE
constexpr bool reads_ahead = true;
#else
constexpr bool reads_ahead = false;
#endif

// glibc reads a cookie's bytes through the stream's buffer, however many are asked for (_IO_default_xsgetn): a read of
// 1 MiB is as large as the system reads ahead on a network drive, and the buffer stays in a core's cache.
constexpr size_t stream_buffer_bytes = static_cast<size_t>(1) << 20;

constexpr int no_fd = -1;

class partial_file {
  public:
    partial_file(int fd, int64_t size, const caravan_partial & what)
        : fd_(fd), size_(size), what_(what), fds_(what.provide != nullptr ? what.n_tensors : 0, no_fd) {}

    // As read(2): the number of bytes read or skipped, 0 at the end of the file, or -1 with errno. A call ends where a
    // tensor ends, so that the stream's buffer never asks for more than llama.cpp does.
    int64_t read(char * out, size_t capacity) {
        const int64_t left = std::max<int64_t>(size_ - at_, 0);
        const int64_t wanted = static_cast<int64_t>(std::min<uint64_t>(capacity, static_cast<uint64_t>(left)));
        const int64_t n_header = static_cast<int64_t>(what_.n_header);
        if (at_ < n_header) {
            const int64_t n = std::min(wanted, n_header - at_);
            std::memcpy(out, what_.header + at_, static_cast<size_t>(n));
            is_ahead_ = false;
            return advance(n);
        }
        if (is_ahead_) {
            return 0;
        }
        const caravan_range * end = what_.tensors + what_.n_tensors;
        const caravan_range * next = std::upper_bound(
            what_.tensors, end, at_, [](int64_t at, const caravan_range & range) { return at < range.end; });
        if (next == end || at_ < next->start) {
            return read_through(fd_, out, next == end ? wanted : std::min(wanted, next->start - at_));
        }
        const int64_t n = std::min(wanted, next->end - at_);
        if (next->is_needed) {
            const int fd = fd_of(static_cast<size_t>(next - what_.tensors));
            if (fd == no_fd) {
                errno = ECANCELED;
                return -1;
            }
            return read_through(fd, out, n);
        }
        skipped_bytes_ += n;
        return advance(n);
    }

    int64_t seek(int64_t offset, int whence) {
        const int64_t from = whence == SEEK_CUR ? at_ : whence == SEEK_END ? size_ : 0;
        if (offset < -from || offset > INT64_MAX - from) {
            errno = EINVAL;
            return -1;
        }
        // On its way to a place inside a block of its buffer's size, glibc seeks to the block's start and reads it, and
        // goes by itself if it is given nothing (_IO_new_file_seekoff). A read that is meant follows a seek relative to
        // here: that last step, or ftell, which llama.cpp calls before each read (llama_file::read_raw_unsafe).
        is_ahead_ = reads_ahead && whence == SEEK_SET;
        return at_ = from + offset;
    }

    int64_t read_bytes() const { return read_bytes_; }
    int64_t skipped_bytes() const { return skipped_bytes_; }

    FILE * stream = nullptr;
    std::unique_ptr<char[]> buffer;  // the stream's, until it is closed

  private:
    int64_t advance(int64_t n) {
        at_ += n;
        return n;
    }

    // Where a tensor is read from; asked for once, and again only after it could not be had.
    int fd_of(size_t number) {
        if (what_.provide == nullptr) {
            return fd_;
        }
        if (fds_[number] == no_fd) {
            fds_[number] = what_.provide(number);
        }
        return fds_[number];
    }

    // A file that has become shorter gives 0 here, which fread tells as an end too early.
    int64_t read_through(int fd, char * out, int64_t n) {
        ssize_t got;
        do {
            got = pread(fd, out, static_cast<size_t>(n), static_cast<off_t>(at_));
        } while (got < 0 && errno == EINTR);
        if (got > 0) {
            read_bytes_ += got;
        }
        return got < 0 ? got : advance(got);
    }

    const int fd_;
    const int64_t size_;  // when it was opened, as llama.cpp asks for it: once
    const caravan_partial what_;
    std::vector<int> fds_;
    int64_t at_ = 0;
    bool is_ahead_ = false;
    int64_t read_bytes_ = 0;
    int64_t skipped_bytes_ = 0;
};

partial_file * as_partial(void * handle) {
    return static_cast<partial_file *>(handle);
}

#ifdef CARAVAN_FOPENCOOKIE

FILE * open_stream(partial_file * file) {
    cookie_io_functions_t functions = {};
    functions.read = [](void * cookie, char * out, size_t n) -> ssize_t { return as_partial(cookie)->read(out, n); };
    functions.seek = [](void * cookie, off64_t * offset, int whence) -> int {
        const int64_t at = as_partial(cookie)->seek(*offset, whence);
        *offset = at;
        return at < 0 ? -1 : 0;
    };
    return fopencookie(file, "rb", functions);
}

#else

FILE * open_stream(partial_file * file) {
    const auto read = [](void * cookie, char * out, int n) -> int {
        return static_cast<int>(as_partial(cookie)->read(out, static_cast<size_t>(n)));
    };
    const auto seek = [](void * cookie, fpos_t offset, int whence) -> fpos_t {
        return as_partial(cookie)->seek(offset, whence);
    };
    return funopen(file, read, nullptr, seek, nullptr);
}

#endif

}  // namespace

void * caravan_partial_open(int fd, const struct caravan_partial * what) {
    struct stat status;
    if (fstat(fd, &status) != 0) {
        return nullptr;
    }
    partial_file * file = new (std::nothrow) partial_file(fd, status.st_size, *what);
    if (file == nullptr) {
        return nullptr;
    }
    file->stream = open_stream(file);
    file->buffer.reset(new (std::nothrow) char[stream_buffer_bytes]);
    if (file->stream != nullptr && file->buffer != nullptr &&
        std::setvbuf(file->stream, file->buffer.get(), _IOFBF, stream_buffer_bytes) == 0) {
        return file;
    }
    caravan_partial_close(file);
    return nullptr;
}

void * caravan_partial_stream(void * handle) {
    return as_partial(handle)->stream;
}

int64_t caravan_partial_read_bytes(void * handle) {
    return as_partial(handle)->read_bytes();
}

int64_t caravan_partial_skipped_bytes(void * handle) {
    return as_partial(handle)->skipped_bytes();
}

void caravan_partial_close(void * handle) {
    if (as_partial(handle)->stream != nullptr) {
        std::fclose(as_partial(handle)->stream);
    }
    delete as_partial(handle);
}

#else

void * caravan_partial_open(int, const struct caravan_partial *) {
    return nullptr;
}

void * caravan_partial_stream(void *) {
    return nullptr;
}

int64_t caravan_partial_read_bytes(void *) {
    return 0;
}

int64_t caravan_partial_skipped_bytes(void *) {
    return 0;
}

void caravan_partial_close(void *) {}

#endif
