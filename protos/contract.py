# SPDX-License-Identifier: MIT
"""The contract's constants: version, metadata keys, names that are allowed, and limits that follow from a
session.

Both rooms read them, worker and coordinator, on any thread; nothing here has state. Limits are computed from
what a session is (its batch, its model), so a peer can never make us buffer more than the session could need.
"""

import re

CONTRACT_VERSION = "1"

# Request metadata of Feed and Collect.
SESSION_METADATA_KEY = "caravan-session"
EPOCH_METADATA_KEY = "caravan-epoch"
# Trailing metadata of a failed call: a serialized ErrorDetail ("-bin" lets gRPC carry bytes).
ERROR_METADATA_KEY = "caravan-error-bin"

MAX_TOP_LOGPROBS = 20
# In one message, and how far ahead of the last frame that came.
MAX_VOID_FRAMES = 4096

# A worker's name is an mDNS instance label (63 bytes, RFC 6763 section 4.1.1) and part of messages and
# addresses.
_WORKER_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,62}", re.ASCII)
_SESSION_ID = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)

_MIB = 1 << 20
# Control messages hold names, counts and one sentence; the largest is far below this.
CONTROL_LIMIT_BYTES = 4 * _MIB
# A frame without its tensors: at most a few token histories (5 bytes a token), a grammar, timings.
FRAME_OVERHEAD_BYTES = 8 * _MIB
FRAME_LIMIT_MIN_BYTES = 16 * _MIB
# How many hidden states of f32 may cross one boundary. Most architectures hand over one; those with
# hyper-connections, several parallel residual streams or per-layer inputs hand over up to about nine times
# n_embd per token.
MAX_CROSSING_STATES = 16
# gRPC and protobuf count a message's bytes in a signed 32-bit integer.
_MESSAGE_LIMIT_BYTES = (1 << 31) - 1

# A peer that lost power says nothing: ask every second, and give it 5 s. gRPC answers by itself, also while the process
# computes. The coordinator asks workers itself, so this is for links that only two workers have between them.
_KEEPALIVE_TIME_MS = 1_000
_KEEPALIVE_TIMEOUT_MS = 5_000


def is_worker_name(name: str) -> bool:
    """Whether `name` may name a worker: 1 to 63 of letters, digits, '-', '_', a letter or digit first."""
    return _WORKER_NAME.fullmatch(name) is not None


def is_session_id(session_id: str) -> bool:
    """Whether `session_id` is 1 to 64 of letters, digits, '-', '_'."""
    return _SESSION_ID.fullmatch(session_id) is not None


def frame_limit_bytes(n_batch: int, n_embd: int) -> int:
    """The largest serialized FeedRequest that a session with this batch and model may send.

    Args:
        n_batch: tokens in a frame, at most; >= 1.
        n_embd: floats of one hidden state; >= 1.

    Raises:
        ValueError: a value below 1, or a batch so large that one hidden state of it fits no message at all.
    """
    if n_batch < 1 or n_embd < 1:
        raise ValueError(f"a frame needs n_batch and n_embd of at least 1, not {n_batch} and {n_embd}")
    state_bytes = 4 * n_batch * n_embd
    if FRAME_OVERHEAD_BYTES + state_bytes > _MESSAGE_LIMIT_BYTES:
        raise ValueError(f"a batch of {n_batch} tokens with {n_embd} floats each is too large for one frame")
    wanted = FRAME_OVERHEAD_BYTES + MAX_CROSSING_STATES * state_bytes
    return min(max(wanted, FRAME_LIMIT_MIN_BYTES), _MESSAGE_LIMIT_BYTES)


def channel_options(max_message_bytes: int | None = None) -> list[tuple[str, int]]:
    """gRPC options for a channel or a server; those that concern only the other kind are ignored there.

    Args:
        max_message_bytes: limit for one message in either direction; None: CONTROL_LIMIT_BYTES.
    """
    limit = CONTROL_LIMIT_BYTES if max_message_bytes is None else max_message_bytes
    return [
        ("grpc.max_send_message_length", limit),
        ("grpc.max_receive_message_length", limit),
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # gRPC core waits a minute for a ping's answer unless told here, too.
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # A line may rest between requests and must still notice a neighbour that died.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A server must not take those pings for abuse and hang up.
        ("grpc.http2.min_ping_interval_without_data_ms", _KEEPALIVE_TIME_MS // 2),
        ("grpc.http2.max_ping_strikes", 0),
        # Without this two workers can listen on one port and share its connections at random (Linux).
        ("grpc.so_reuseport", 0),
        # Workers are on the LAN; a proxy meant for the web cannot reach them.
        ("grpc.enable_http_proxy", 0),
        # Each channel owns its connection: the back-off of a dead one does not delay its successor.
        ("grpc.use_local_subchannel_pool", 1),
    ]
