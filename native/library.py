# SPDX-License-Identifier: MIT
"""The two foreign libraries, loaded and checked once per process: llama.cpp (through llama-cpp-python) and the wire.

Everything of ours that needs a raw function takes it from here. Importing this module routes llama.cpp's log into
Python's logging under `native.llama_cpp`; `wire()` checks the running library against the wire before first use.
"""

from __future__ import annotations

import ctypes as c
import functools
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
from llama_cpp import _ggml

from native.errors import LibraryMismatchError

# The version everything here was built and tested for; pyproject.toml pins the same.
BUILT_FOR = "0.3.36"

# Before it aborts, ggml attaches a debugger to print a backtrace where it finds one, which can take minutes.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

_LOG = logging.getLogger("native.llama_cpp")

_SUFFIXES = {"linux": ".so", "darwin": ".dylib", "win32": ".dll"}

llama = llama_cpp.llama_cpp._lib
if sys.platform == "win32":
    ggml = _ggml.libggml
    ggml_base = c.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "ggml-base.dll"))
else:
    # A function is looked up in what the library is linked to as well: these are the very copies that llama.cpp uses.
    # A wheel holds each library as several files, so loading one by its name brings a second copy with its own state.
    ggml = ggml_base = llama


@dataclass(frozen=True, slots=True)
class Versions:
    """The engine's build: workers of one mesh must agree on all three."""

    llama_cpp_python: str
    llama_cpp: str
    ggml: str


def declare(
    library: c.CDLL, name: str, result: type[c._CDataType] | None, *arguments: type[c._CDataType]
) -> c._NamedFuncPointer:
    """The library's function of that name with its C signature; LibraryMismatchError if it is not there."""
    try:
        function: c._NamedFuncPointer = getattr(library, name)
    except AttributeError:
        raise LibraryMismatchError(
            f"the installed llama.cpp has no {name}: install llama-cpp-python=={BUILT_FOR}, "
            f"this is {llama_cpp.__version__}"
        ) from None
    function.restype = result
    function.argtypes = list(arguments)
    return function


@functools.cache
def versions() -> Versions:
    """What is running in this process."""
    ggml_version = declare(ggml_base, "ggml_version", c.c_char_p)
    ggml_commit = declare(ggml_base, "ggml_commit", c.c_char_p)
    llama_version = declare(llama, "llama_version", c.c_char_p)
    return Versions(
        llama_cpp_python=llama_cpp.__version__,
        llama_cpp=llama_version().decode(),
        ggml=f"{ggml_version().decode()} ({ggml_commit().decode()})",
    )


# llama.cpp logs from whichever thread is loading or computing. Continuation pieces (level 5) end a line begun before.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
_CONTINUATION = 5
# llama.cpp's lines are short, unless it quotes a file.
_MAX_LINE_BYTES = 1000
_last_errors: deque[str] = deque(maxlen=8)


class _Expectation(threading.local):
    """Whether this thread asks for something that may well fail."""

    errors = False


_expectation = _Expectation()


@contextmanager
def errors_expected() -> Iterator[None]:
    """What llama.cpp complains of on this thread meanwhile is logged at DEBUG only."""
    _expectation.errors = True
    try:
        yield
    finally:
        _expectation.errors = False


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    message = text[:_MAX_LINE_BYTES].decode("utf-8", "replace").strip()
    if not message or message == ".":
        return
    if level == 4:
        _last_errors.append(message)
    _LOG.log(logging.DEBUG if _expectation.errors else _LEVELS.get(level, logging.DEBUG), "%s", message)


# Held for as long as the library may call it.
_log_callback = llama_cpp.llama_log_callback(_on_log)


def route_logs() -> None:
    """Sends llama.cpp's log to `logging.getLogger("native.llama_cpp")`: errors and warnings as such, the rest DEBUG."""
    llama_cpp.llama_log_set(_log_callback, c.c_void_p(0))


def forget_errors() -> None:
    """Starts a fresh memory of llama.cpp's error lines; called before an operation that may fail."""
    _last_errors.clear()


def last_errors() -> str:
    """llama.cpp's error lines since `forget_errors`, first and most telling one first, shortened to one sentence."""
    lines = [line.partition(": ")[2] or line for line in _last_errors]
    return "; ".join(dict.fromkeys(lines)) or "llama.cpp gave no reason"


class CrossingStruct(c.Structure):
    """struct caravan_crossing."""

    _fields_ = (
        ("key", c.c_char_p),
        ("type", c.c_int32),
        ("ne", c.c_int64 * 4),
        ("data", c.c_void_p),
        ("size", c.c_size_t),
    )


class BytesStruct(c.Structure):
    """struct caravan_bytes."""

    _fields_ = (
        ("buffer_type", c.c_void_p),
        ("weights", c.c_size_t),
        ("kv", c.c_size_t),
        ("compute", c.c_size_t),
    )


class RangeStruct(c.Structure):
    """struct caravan_range."""

    _fields_ = (("start", c.c_int64), ("end", c.c_int64), ("is_needed", c.c_int32))


# caravan_provide: from a tensor's number to the descriptor of a file that has it.
ProvideCallback = c.CFUNCTYPE(c.c_int, c.c_size_t)


class PartialStruct(c.Structure):
    """struct caravan_partial."""

    _fields_ = (
        ("header", c.c_char_p),
        ("n_header", c.c_size_t),
        ("tensors", c.POINTER(RangeStruct)),
        ("n_tensors", c.c_size_t),
        ("provide", ProvideCallback),
    )


class TextStruct(c.Structure):
    """struct caravan_text."""

    _fields_ = (
        ("bytes", c.c_char_p),
        ("n_bytes", c.c_int32),
        ("add_special", c.c_int32),
        ("parse_special", c.c_int32),
    )


class _HostStruct(c.Structure):
    _fields_ = (
        ("buffer_init", c.c_void_p),
        ("tensor_get", c.c_void_p),
        ("synchronize", c.c_void_p),
        ("graph_n_nodes", c.c_void_p),
        ("graph_node", c.c_void_p),
        ("nbytes", c.c_void_p),
        ("tensor_overhead", c.c_void_p),
        ("graph_overhead", c.c_void_p),
        ("sched_n_backends", c.c_void_p),
        ("sched_backend", c.c_void_p),
        ("sched_set_backend", c.c_void_p),
        ("memory_breakdown", c.c_void_p),
        ("op_get_rows", c.c_int32),
        ("view_ops", c.c_int32 * 4),
        ("ops_view", c.c_int32 * 4),
    )


_HOST_FUNCTIONS = (
    "ggml_backend_buffer_init",
    "ggml_backend_tensor_get",
    "ggml_backend_synchronize",
    "ggml_graph_n_nodes",
    "ggml_graph_node",
    "ggml_nbytes",
    "ggml_tensor_overhead",
    "ggml_graph_overhead_custom",
    "ggml_backend_sched_get_n_backends",
    "ggml_backend_sched_get_backend",
    "ggml_backend_sched_set_tensor_backend",
)

# Ops that only show what another made.
_VIEW_OPS = ("RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE")

# llama_get_memory_breakdown(const llama_context *) as the Itanium C++ ABI and MSVC spell it.
_BREAKDOWN_NAMES = (
    "_Z26llama_get_memory_breakdownPK13llama_context",
    "llama_get_memory_breakdown",
)

# llama_context::get_sched() const as the Itanium C++ ABI spells it.
_SCHEDULER_NAME = "_ZNK13llama_context9get_schedEv"

# More ops than ggml has; the search for one by name ends there.
_MAX_OPS = 200


def _address(library: c.CDLL, name: str) -> int:
    return c.cast(declare(library, name, None), c.c_void_p).value or 0


def _op_number(name: str) -> int:
    op_count = declare(ggml_base, "ggml_op_name", c.c_char_p, c.c_int)
    for number in range(_MAX_OPS):
        if op_count(number) == name.encode():
            return number
    raise LibraryMismatchError(f"the installed ggml has no op {name}: install llama-cpp-python=={BUILT_FOR}")


def _breakdown_address() -> int:
    for name in _BREAKDOWN_NAMES:
        if hasattr(llama, name):
            return _address(llama, name)
    raise LibraryMismatchError(
        f"the installed llama.cpp has no llama_get_memory_breakdown: install llama-cpp-python=={BUILT_FOR}"
    )


def scheduler_of(context: int) -> int | None:
    """ggml's scheduler of a context; None where the library does not give it away."""
    if not hasattr(llama, _SCHEDULER_NAME):
        return None
    scheduler: int | None = declare(llama, _SCHEDULER_NAME, c.c_void_p, c.c_void_p)(context)
    return scheduler


def _wire_path() -> Path:
    """Where the wire library lies: beside this module, unless CARAVAN_WIRE_LIBRARY names another (a sanitized one)."""
    elsewhere = os.environ.get("CARAVAN_WIRE_LIBRARY")
    if elsewhere:
        return Path(elsewhere)
    return Path(__file__).with_name(f"libcaravan_wire{_SUFFIXES.get(sys.platform, '.so')}")


@functools.cache
def wire() -> c.CDLL:
    """The wire library, its functions declared and the running ggml checked against it.

    Raises:
        LibraryMismatchError: the wire is not built, or was built for another ggml; names both.
    """
    path = _wire_path()
    if not path.exists():
        raise LibraryMismatchError(f"{path.name} is not built: run scripts/setup, or reinstall llama-caravan")
    # Only a checkout has sources, and only there they change: an old wire may compute with what it misunderstands.
    sources = Path(__file__).with_name("src").glob("*")
    if any(source.stat().st_mtime > path.stat().st_mtime for source in sources):
        raise LibraryMismatchError(f"{path.name} is older than its sources in native/src: run scripts/setup")
    library = c.CDLL(str(path))
    pointer = c.c_void_p
    declare(library, "caravan_init", c.c_char_p, c.POINTER(_HostStruct), pointer)
    declare(library, "caravan_wire_new", pointer, c.c_char_p, c.c_int, c.c_int, c.c_size_t)
    declare(library, "caravan_wire_free", None, pointer)
    declare(library, "caravan_wire_device", pointer, pointer)
    declare(library, "caravan_wire_buffer_type", pointer, pointer)
    declare(library, "caravan_wire_loading", None, pointer, c.c_int)
    declare(library, "caravan_wire_weight_bytes", c.c_int64, pointer, c.c_char_p)
    declare(library, "caravan_wire_begin", None, pointer, c.POINTER(CrossingStruct), c.c_size_t)
    declare(library, "caravan_wire_begin_made_up", None, pointer)
    declare(library, "caravan_wire_hold", None, pointer, pointer, pointer)
    declare(library, "caravan_wire_end", c.c_char_p, pointer)
    declare(library, "caravan_wire_captured", c.c_size_t, pointer, c.POINTER(CrossingStruct), c.c_size_t)
    declare(library, "caravan_fence_new", pointer, pointer, c.c_int, c.c_int)
    declare(library, "caravan_fence_free", None, pointer)
    declare(library, "caravan_fence_join", None, pointer, pointer)
    cards = c.POINTER(pointer)
    declare(library, "caravan_weigher_new", pointer, pointer, cards, c.c_size_t, pointer, pointer)
    declare(library, "caravan_weigher_free", None, pointer)
    declare(library, "caravan_weigher_buffer_type", pointer, pointer)
    declare(library, "caravan_weigher_weigh", None, pointer, c.c_size_t)
    declare(library, "caravan_weigher_left_out", c.c_char_p, pointer)
    declare(library, "caravan_layer_of", c.c_int, pointer)
    declare(library, "caravan_memory_breakdown", c.c_size_t, pointer, c.POINTER(BytesStruct), c.c_size_t)
    declare(library, "caravan_partial_open", pointer, c.c_int, c.POINTER(PartialStruct))
    declare(library, "caravan_partial_stream", pointer, pointer)
    declare(library, "caravan_partial_read_bytes", c.c_int64, pointer)
    declare(library, "caravan_partial_skipped_bytes", c.c_int64, pointer)
    declare(library, "caravan_partial_close", None, pointer)
    text, tokens = c.POINTER(TextStruct), c.POINTER(c.c_int32)
    declare(library, "caravan_tokenize", c.c_int32, pointer, pointer, text, tokens, c.c_int32)
    declare(library, "caravan_on_abort", pointer)
    declare(library, "caravan_refuse", None, c.c_int)
    _check(library)
    declare(ggml_base, "ggml_set_abort_callback", pointer, pointer)(library.caravan_on_abort())
    return library


@contextmanager
def crashes_refused(is_refused: bool = True) -> Iterator[None]:
    """What llama.cpp asserts on this thread meanwhile, or a tensor that it misses, it refuses instead of ending the
    process.

    Only around calls that catch C++'s exceptions themselves, and that look at a header alone: what is half made then is
    never freed. `is_refused` False: this does nothing.
    """
    change = int(is_refused)
    wire().caravan_refuse(change)
    try:
        yield
    finally:
        wire().caravan_refuse(-change)


def _check(library: c.CDLL) -> None:
    if llama_cpp.__version__ != BUILT_FOR:
        raise LibraryMismatchError(
            f"llama-cpp-python {llama_cpp.__version__} is installed, this caravan speaks to {BUILT_FOR}: "
            f"pip install llama-cpp-python=={BUILT_FOR}"
        )
    addresses = [_address(ggml_base, name) for name in _HOST_FUNCTIONS]
    ops_view = (c.c_int32 * len(_VIEW_OPS))(*map(_op_number, _VIEW_OPS))
    host = _HostStruct(*addresses, _breakdown_address(), _op_number("GET_ROWS"), ops_view)
    cpu = declare(ggml, "ggml_backend_dev_by_type", c.c_void_p, c.c_int)(0)
    complaint = library.caravan_init(c.byref(host), cpu)
    if complaint is not None:
        raise LibraryMismatchError(
            f"the installed llama.cpp has {complaint.decode()}: pip install llama-cpp-python=={BUILT_FOR}"
        )


route_logs()
llama_cpp.llama_backend_init()
