# SPDX-License-Identifier: MIT
"""Text as it may be shown: whole characters, and nothing that a stop string may still claim."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.text import TextStream


def _shown(pieces: list[bytes], stop: list[str]) -> tuple[str, bool]:
    """All text that a stream shows for these pieces, and whether it stopped."""
    stream = TextStream(stop)
    shown = ""
    for piece in pieces:
        part = stream.push(piece)
        shown += part.text
        if part.stopped:
            return shown, True
    part = stream.finish()
    return shown + part.text, part.stopped


@st.composite
def _split_bytes(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> tuple[bytes, list[bytes]]:
    data = draw(content)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    ends = [0, *cuts, len(data)]
    return data, [data[a:b] for a, b in itertools.pairwise(ends)]


@given(_split_bytes(st.text().map(str.encode)))
def test_however_the_bytes_are_split_the_text_is_the_same(split: tuple[bytes, list[bytes]]) -> None:
    data, pieces = split
    assert _shown(pieces, []) == (data.decode(), False)


@given(_split_bytes(st.binary()))
def test_bytes_that_are_no_text_become_replacement_characters(split: tuple[bytes, list[bytes]]) -> None:
    data, pieces = split
    assert _shown(pieces, []) == (data.decode("utf-8", "replace"), False)


@given(
    _split_bytes(st.text("ab€", max_size=12).map(str.encode)),
    st.lists(st.text("ab€", min_size=1, max_size=3), max_size=3),
)
def test_however_the_bytes_are_split_it_stops_at_the_same_place(
    split: tuple[bytes, list[bytes]], stop: list[str]
) -> None:
    data, pieces = split
    by_character = [character.encode() for character in data.decode()]
    assert _shown(pieces, stop) == _shown(by_character, stop)


@given(
    _split_bytes(st.text("ab", max_size=12).map(str.encode)),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3),
)
def test_no_stop_string_is_ever_shown(split: tuple[bytes, list[bytes]], stop: list[str]) -> None:
    shown, stopped = _shown(split[1], stop)
    assert not [text for text in stop if text in shown]
    assert stopped == any(text in split[0].decode() for text in stop)


@given(_split_bytes(st.text("ab€", max_size=12).map(str.encode)), st.text("ab€", min_size=1, max_size=3))
def test_no_more_is_held_back_than_a_stop_string_could_claim(split: tuple[bytes, list[bytes]], stop: str) -> None:
    stream = TextStream([stop])
    taken, shown = b"", ""
    for piece in split[1]:
        part = stream.push(piece)
        taken, shown = taken + piece, shown + part.text
        if part.stopped:
            return
        held = taken.decode(errors="ignore")[len(shown) :]
        assert stop.startswith(held)


def test_half_a_character_is_not_shown() -> None:
    stream = TextStream()
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert stream.push(first).text == ""
    assert stream.push(second).text == "é"


def test_half_a_character_at_the_end_is_a_replacement_character() -> None:
    stream = TextStream()
    assert stream.push("é".encode()[:1]).text == ""
    assert stream.finish().text == "\ufffd"


def test_text_before_a_stop_string_is_shown_and_the_rest_is_not() -> None:
    part = TextStream(["STOP"]).push(b"one STOP two")
    assert (part.text, part.stopped) == ("one ", True)


def test_what_only_began_like_a_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(["\n\nUser:"])
    assert stream.push(b"done.\n\nUse").text == "done."
    assert stream.finish().text == "\n\nUse"


@pytest.mark.parametrize(("stop", "shown"), [(["ab", "b"], ""), (["b", "abc"], "a")])
def test_the_stop_string_that_is_complete_first_counts_and_of_those_the_longest(stop: list[str], shown: str) -> None:
    assert _shown([b"abc"], stop) == (shown, True)


def test_an_empty_stop_string_stops_nothing() -> None:
    assert _shown([b"text"], [""]) == ("text", False)
