# SPDX-License-Identifier: MIT
"""Text to tokens and back, with a trained byte-pair vocabulary and a SentencePiece one."""

from collections.abc import Iterator
from pathlib import Path

import gguf
import pytest

from native import ModelFileError, TokenizeError, UnsupportedModelError, Vocabulary
from tests.model_kinds.parts import Size
from tests.models import write_model


@pytest.fixture(params=["demo", "tiny"])
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    with Vocabulary.load(request.getfixturevalue(request.param)) as vocabulary:
        yield vocabulary


@pytest.mark.parametrize(
    "text", ["The little fox ran into the wood.", "naïve café", "日本語のテキスト", "🦙🦙", "a\n\n\tb", "\x00\x01"]
)
def test_any_text_comes_back_as_it_went(vocabulary: Vocabulary, text: str) -> None:
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=False)
    assert all(0 <= token < vocabulary.n_tokens for token in tokens)
    # SentencePiece puts a space in front of the first word.
    assert b"".join(map(vocabulary.piece, tokens)).decode().removeprefix(" ") == text.removeprefix(" ")


def test_no_text_has_no_tokens(vocabulary: Vocabulary) -> None:
    assert vocabulary.tokenize("", add_special=False, parse_special=False) == []


def test_a_long_text_needs_no_more_than_one_call(vocabulary: Vocabulary) -> None:
    text = "word " * 20_000
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(vocabulary.piece, tokens)).decode().strip() == text.strip()


def test_a_beginning_is_added_where_the_model_wants_one(vocabulary: Vocabulary) -> None:
    assert vocabulary.add_bos
    with_special = vocabulary.tokenize("fox", add_special=True, parse_special=False)
    assert with_special[0] == vocabulary.bos
    assert with_special[1:] == vocabulary.tokenize("fox", add_special=False, parse_special=False)


def test_special_tokens_are_read_from_text_only_when_told_so(vocabulary: Vocabulary) -> None:
    assert vocabulary.eos is not None
    written = vocabulary.piece(vocabulary.eos, special=True).decode()
    assert vocabulary.tokenize(written, add_special=False, parse_special=True)[-1] == vocabulary.eos
    as_text = vocabulary.tokenize(written, add_special=False, parse_special=False)
    assert vocabulary.eos not in as_text
    assert b"".join(map(vocabulary.piece, as_text)).decode().strip() == written


def test_a_special_token_has_no_text_unless_asked_for(vocabulary: Vocabulary) -> None:
    assert vocabulary.eos is not None
    assert vocabulary.piece(vocabulary.eos) == b""
    assert len(vocabulary.piece(vocabulary.eos, special=True)) > 2
    assert vocabulary.is_end_of_generation(vocabulary.eos)
    word = vocabulary.tokenize("fox", add_special=False, parse_special=False)[0]
    assert not vocabulary.is_end_of_generation(word)


def test_a_character_may_take_several_tokens(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.tokenize("🦙", add_special=False, parse_special=False)
    pieces = [vocabulary.piece(token) for token in tokens]
    assert sum(len(piece) for piece in pieces if piece != b" ") == len("🦙".encode())
    with pytest.raises(UnicodeDecodeError):
        pieces[-1].decode()


def test_text_that_is_no_unicode_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(TokenizeError, match=r"not valid Unicode.* at character 3"):
        vocabulary.tokenize("abc\ud800", add_special=False, parse_special=False)


def test_a_token_that_does_not_exist_is_refused(vocabulary: Vocabulary) -> None:
    for token in (-1, vocabulary.n_tokens, 2**31 - 1):
        with pytest.raises(ValueError, match=f"token {token} is not in a vocabulary"):
            vocabulary.piece(token)


def test_every_piece_can_be_had(vocabulary: Vocabulary) -> None:
    assert sum(len(vocabulary.piece(token, special=True)) > 0 for token in range(vocabulary.n_tokens)) > 300


def test_a_vocabulary_of_an_unknown_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "future.gguf"
    path.write_bytes(tiny.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(UnsupportedModelError, match="lhama"):
        Vocabulary.load(path)
    path.write_bytes(b"no model")
    with pytest.raises(ModelFileError):
        Vocabulary.load(path)


def test_a_model_without_text_or_template_has_neither(tmp_path: Path) -> None:
    with Vocabulary.load(write_model(tmp_path / "model.gguf", "llama")) as vocabulary:
        assert not vocabulary.has_text
        assert vocabulary.piece(3) == b""
        assert vocabulary.chat_template is None
        assert vocabulary.bos is None
        assert vocabulary.eos is None


def test_a_model_without_a_vocabulary_has_no_text_and_ends_no_process(tmp_path: Path) -> None:
    with Vocabulary.load(write_model(tmp_path / "model.gguf", "llama")) as vocabulary:
        assert vocabulary.piece(1, special=True) == b""
        with pytest.raises(TokenizeError, match="has no vocabulary"):
            vocabulary.tokenize("fox", add_special=False, parse_special=False)


@pytest.mark.parametrize(
    ("model", "text", "add_special", "complaint"),
    [
        ("llama", "z", False, "has no token for something in the text"),
        ("llama", "a", True, "lacks a token that it wants around a text"),
        ("bert", "a", True, "lacks a token that it wants around a text"),
    ],
)
def test_a_text_that_a_vocabulary_cannot_have_is_refused(
    tmp_path: Path, model: str, text: str, add_special: bool, complaint: str
) -> None:
    tokens = ["\u2581", "a"]
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tokenizer_model(model)
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_add_eos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Vocabulary.load(tmp_path / "model.gguf") as vocabulary, pytest.raises(TokenizeError, match=complaint):
        vocabulary.tokenize(text, add_special=add_special, parse_special=False)


def test_a_vocabulary_says_what_keeps_another_model_from_drafting(demo: Path, tiny: Path, tmp_path: Path) -> None:
    same = write_model(tmp_path / "same.gguf", "llama", n_layer=1, with_text=True, seed=5)
    with Vocabulary.load(tiny) as one, Vocabulary.load(same) as other, Vocabulary.load(demo) as trained:
        assert one.difference(other) is None
        assert "is of another kind" in str(one.difference(trained))


def test_a_vocabulary_of_another_size_or_with_another_piece_cannot_draft(tiny: Path, tmp_path: Path) -> None:
    larger = write_model(tmp_path / "larger.gguf", "llama", size=Size(1, n_vocab=1200), with_text=True)
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(tiny.read_bytes().replace("▁the".encode(), "▁teh".encode()))
    with Vocabulary.load(tiny) as one, Vocabulary.load(larger) as other, Vocabulary.load(changed) as third:
        assert f"has {other.n_tokens} tokens, not {one.n_tokens}" in str(one.difference(other))
        assert "as '▁teh', not '▁the'" in str(one.difference(third))
