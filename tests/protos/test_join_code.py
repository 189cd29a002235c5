# SPDX-License-Identifier: MIT
"""Join codes as people copy them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.join_code import SEED_BYTES, JoinCodeError, code_of, seed_of

_SEEDS = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)


@given(_SEEDS)
def test_a_code_is_its_seed_in_whatever_way_it_is_typed(seed: bytes) -> None:
    code = code_of(seed)
    assert re.fullmatch(r"(?:[0-9A-HJKMNP-TV-Z]{4}-){6}[0-9A-HJKMNP-TV-Z]{4}", code)
    for typed in (code, code.lower(), code.replace("-", ""), code.replace("-", " "), f" {code}\n"):
        assert seed_of(typed) == seed
    assert seed_of(code.replace("0", "O").replace("1", "l")) == seed


def test_a_checksum_finds_all_slips_but_a_rare_one() -> None:
    plain = code_of(bytes(range(SEED_BYTES))).replace("-", "")
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    slips = {plain[:at] + letter + plain[at + 1 :] for at in range(28) for letter in letters} - {plain}
    assert len(slips) == 28 * 31
    assert sum(map(_is_code, slips)) <= 2


def _is_code(text: str) -> bool:
    try:
        seed_of(text)
    except JoinCodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [("", "this one has 0"), ("ABCD", "this one has 4"), ("U" * 28, "has no 'U'"), ("0" * 28, "was mistyped")],
)
def test_what_is_no_code_is_told_why(typed: str, sentence: str) -> None:
    with pytest.raises(JoinCodeError, match=sentence):
        seed_of(typed)
