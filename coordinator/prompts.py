# SPDX-License-Identifier: MIT
"""What a caller says, as tokens of one model, and back. Thread-safe: `AsyncMesh` calls it on its event loop, `Mesh` on
the caller's own thread, a server on threads of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.errors import ClosedError, InvalidRequestError, NotMadeForError
from native import ChatTemplate, NativeError, Vocabulary

Messages = Sequence[Mapping[str, object]]


class Lease:
    """Holds a vocabulary open; whoever calls into it from whatever thread has one in hand, and the last one who lets go
    of it frees the vocabulary. No lock: a Ctrl-C can leave one taken."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def __del__(self) -> None:
        self.vocabulary.close()


class Prompts:
    """Of one mesh.

    Args:
        vocabulary: Owned: freed after `free`, when nobody calls into it any more.
        writes: Whether the model makes text.
    """

    def __init__(self, vocabulary: Vocabulary, *, writes: bool = True) -> None:
        self._lease: Lease | None = Lease(vocabulary)
        self.writes = writes
        self._template: ChatTemplate | None = None
        self._closed = False

    def close(self) -> None:
        """Lets nobody in any more."""
        self._closed = True

    def free(self) -> None:
        """Closes, and frees the vocabulary as soon as those inside have left."""
        self._closed = True
        self._lease = None

    def enter(self) -> Lease:
        """What keeps the vocabulary there while the caller has it.

        Raises:
            ClosedError: It is closed (so do the others).
        """
        lease = self._lease
        if lease is None or self._closed:
            raise ClosedError
        return lease

    def prompt_tokens(self, prompt: str | Sequence[int | str]) -> tuple[int, ...]:
        """Tokens of a raw prompt: text with what the model puts around it (BOS), special tokens written out in it read
        as such; token ids as they are, and texts among them, of which the first part alone gets a BOS.

        Raises:
            InvalidRequestError: No valid Unicode, or ids that are not in the vocabulary.
        """
        if isinstance(prompt, str):
            return self.tokenize(prompt, add_special=True, parse_special=True)
        if not any(isinstance(part, str) for part in prompt):
            return _known(self.enter(), prompt)
        tokens: list[int] = []
        for number, part in enumerate(prompt):
            if isinstance(part, str):
                tokens += self.tokenize(part, add_special=number == 0, parse_special=True)
            else:
                tokens.append(part)
        return _known(self.enter(), tokens)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> tuple[int, ...]:
        """Tokens of a text, with what the model puts around it (BOS) and with special tokens read as such, or not.

        Raises:
            InvalidRequestError: No valid Unicode, or nothing that the vocabulary has tokens for.
        """
        lease = self.enter()
        try:
            return tuple(lease.vocabulary.tokenize(text, add_special=add_special, parse_special=parse_special))
        except NativeError as error:
            raise InvalidRequestError(str(error)) from error

    def query_and_document(self, query: str, document: str) -> tuple[int, ...]:
        """Tokens of both as the model ranks them.

        Raises:
            InvalidRequestError: As `tokenize`.
        """
        lease = self.enter()
        try:
            return tuple(lease.vocabulary.query_and_document(query, document))
        except NativeError as error:
            raise InvalidRequestError(str(error)) from error

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special ones written out.

        Raises:
            InvalidRequestError: One is not in the vocabulary.
        """
        lease = self.enter()
        return [lease.vocabulary.piece(token, special=True) for token in _known(lease, tokens)]

    def special_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Of these texts, those that are one token of the vocabulary."""
        tokens = (self.tokenize(text, add_special=False, parse_special=True) for text in texts)
        return tuple(found[0] for found in tokens if len(found) == 1)

    def chat_template(self) -> ChatTemplate:
        """The model's own.

        Raises:
            NotMadeForError: The model makes no text.
            InvalidRequestError: It has none, or one that does not parse.
        """
        lease = self.enter()
        self.check_writes()
        try:
            template = self._template = self._template or lease.vocabulary.chat_template
        except NativeError as error:
            raise InvalidRequestError(str(error)) from error
        if template is None:
            raise InvalidRequestError("this model has no chat template: send a plain prompt instead")
        return template

    def chat_prompt(self, messages: Messages, variables: Mapping[str, object] | None) -> str:
        """Messages as a raw prompt, laid out by the model's own template.

        Raises:
            NotMadeForError, InvalidRequestError: As `chat_template`, or it refuses the messages.
        """
        template = self.chat_template()
        if not messages:
            raise InvalidRequestError("there are no messages to answer")
        others = dict(variables or {})
        add_generation_prompt = bool(others.pop("add_generation_prompt", True))
        try:
            text = template.render(messages, add_generation_prompt=add_generation_prompt, **others)
        except (NativeError, TypeError) as error:
            raise InvalidRequestError(str(error)) from error
        return self.raw_prompt(text)

    def chat_tokens(self, messages: Messages, variables: Mapping[str, object] | None) -> tuple[int, ...]:
        """Tokens of messages: those of the prompt that `chat_prompt` gives; raises as that."""
        return self.prompt_tokens(self.chat_prompt(messages, variables))

    def raw_prompt(self, laid_out: str) -> str:
        """The raw prompt of what a template laid out. What the model's texts begin and end with (BOS, EOS) is left out
        where the template writes it, since a raw prompt gets it: so there is one of them, whether the template writes
        it or not. As llama-server has it. Source: common_chat_template_direct_apply_impl in common/chat.cpp."""
        bos, eos = self.enter().vocabulary.added_texts
        return laid_out.removeprefix(bos).removesuffix(eos)

    def check_writes(self) -> None:
        """Whether the model makes text.

        Raises:
            NotMadeForError: It does not.
        """
        if not self.writes:
            raise NotMadeForError(
                "this model makes embeddings and no text: ask POST /v1/embeddings (Mesh.embed), or open a chat model"
            )


def _known(lease: Lease, tokens: Sequence[object]) -> tuple[int, ...]:
    """The tokens, all of which are in the vocabulary."""
    n_tokens, known = lease.vocabulary.n_tokens, []
    for token in tokens:
        if not (isinstance(token, int) and 0 <= token < n_tokens):
            raise InvalidRequestError(f"{token!r} is no token of this vocabulary, which has ids below {n_tokens}")
        known.append(token)
    return tuple(known)
