# SPDX-License-Identifier: MIT
"""What stays on this machine, and what does not."""

import pytest

from protos.loopback import is_loopback


@pytest.mark.parametrize(
    ("host", "stays"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("192.0.2.1", False),
        ("fe80::1", False),
        ("0.0.0.0", False),
        ("a" * 70 + ".b", True),  # it is no name at all, and using it will say so
    ],
)
def test_only_what_nobody_else_reaches_stays_here(host: str, stays: bool) -> None:
    assert is_loopback(host) is stays
