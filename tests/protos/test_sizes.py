# SPDX-License-Identifier: MIT
"""Sizes as people write them on the command line, and as they read them in messages."""

import pytest

from protos.sizes import parse_size, size


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("123456", 123456),
        ("512B", 512),
        ("20GiB", 20 << 30),
        ("20gib", 20 << 30),
        ("1.5 GiB", 3 << 29),
        ("512MiB", 512 << 20),
        ("4KiB", 4096),
        ("1TiB", 1 << 40),
        ("20Gi", 20 << 30),
        ("20G", 20 * 10**9),
        ("20GB", 20 * 10**9),
        ("512M", 512 * 10**6),
    ],
)
def test_sizes_are_read_in_binary_and_decimal_units(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "20 bananas", "1,5GiB", "20iB", "0x10", "\u0661GiB", "9" * 400])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no size, like 20GiB") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("n_bytes", "shown"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1536, "1.5 KiB"),
        (300 << 20, "300 MiB"),
        (3 << 29, "1.5 GiB"),
        (5000 << 30, "4.9 TiB"),
    ],
)
def test_bytes_are_shown_in_units_people_read(n_bytes: int, shown: str) -> None:
    assert size(n_bytes) == shown
