# SPDX-License-Identifier: MIT
"""A small byte-level BPE tokenizer, learned on the corpus, and chats in its tokens.

Pieces are split as GPT-2 splits them, which is what llama.cpp calls `pre = "gpt-2"`. The chat format is
ChatML: tools that do not read chat templates know it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .chat import Document

BOS, EOS, TURN, END_OF_TURN = "<|begin|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (BOS, EOS, TURN, END_OF_TURN)
"""The control tokens; their ids are 0, 1, 2, 3."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A document as token ids, and for each whether the model shall learn to say it."""

    ids: list[int]
    learned: list[bool]


def learn(texts: Iterable[str], n_vocab: int) -> Tokenizer:
    """Learn a tokenizer of exactly `n_vocab` tokens, control tokens and all 256 bytes included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != n_vocab:
        raise ValueError(f"the corpus gave {tokenizer.get_vocab_size()} tokens, {n_vocab} were asked for")
    return tokenizer


def tokens_and_merges(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The tokens in the order of their ids, and the merges as llama.cpp writes them: "a b"."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in model["merges"]]


def plain_text(document: Document) -> str:
    """The document's words alone, to learn a tokenizer from."""
    if isinstance(document, str):
        return document
    return "\n".join(f"{turn.role}\n{turn.text}" for turn in document)


def encode(document: Document, tokenizer: Tokenizer) -> Encoded:
    """A plain text between BOS and EOS, or a chat as `CHAT_TEMPLATE` writes it.

    Of a chat, only what the assistant says is learned, up to and with the end of its turn.
    """
    bos, eos, turn_id, end_id = range(len(SPECIAL))
    if isinstance(document, str):
        ids = [bos, *tokenizer.encode(document).ids, eos]
        return Encoded(ids, [False] + [True] * (len(ids) - 1))
    ids, learned = [bos], [False]
    newline = tokenizer.encode("\n").ids
    for turn in document:
        head = [turn_id, *tokenizer.encode(f"{turn.role}\n").ids]
        said = [*tokenizer.encode(turn.text).ids, end_id]
        ids += head + said + newline
        learned += [False] * len(head) + [turn.role == "assistant"] * len(said) + [False] * len(newline)
    return Encoded(ids, learned)
