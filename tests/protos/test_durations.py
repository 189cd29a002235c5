# SPDX-License-Identifier: MIT
"""Times as people write them."""

import pytest

from protos.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("1d", 86400), (" 5 M ", 300)]
)
def test_times_are_read_in_their_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "5 minutes", "1,5h", "5ms", "inf", "\u0665m", "9" * 9 + "d"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no time, like 90s, 5m") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)
