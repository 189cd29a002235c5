# SPDX-License-Identifier: MIT
"""What both faces of a mesh share that is about text: its model's tokens, prompts and chat template. From any thread: a
server tokenises long prompts beside its loop (a third of a second per megabyte), and gives `generate` the tokens. All
raise ClosedError when the mesh is closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from coordinator.opening import OpenMesh
from coordinator.prompts import Messages
from native import ChatTemplate, Vocabulary


class TextFace:
    """Part of `AsyncMesh` and `Mesh`."""

    _mesh: OpenMesh

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's; valid until the mesh is closed."""
        return self._mesh.vocabulary

    @property
    def writes(self) -> bool:
        """Whether the model makes text; else it makes embeddings, and no more."""
        return self._mesh.admission.writes

    @property
    def chat_template(self) -> ChatTemplate:
        """The model's own; `chat` lays messages out by it.

        Raises:
            InvalidRequestError: The model has none, or one that does not parse.
        """
        return self._mesh.admission.chat_template()

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> tuple[int, ...]:
        """The tokens of any text.

        >>> b"".join(mesh.pieces(mesh.tokenize("a llama")))
        b'...a llama'

        Args:
            add_special: With what the model's texts begin and end with (BOS, EOS).
            parse_special: Special tokens written out in the text are read as such.

        Raises:
            InvalidRequestError: It cannot be tokenised.
        """
        return self._mesh.admission.tokenize(text, add_special=add_special, parse_special=parse_special)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special ones written out; a token may be a part of a character.

        Raises:
            InvalidRequestError: There is no such token.
        """
        return self._mesh.admission.pieces(tokens)

    def special_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Of these texts, those that are one token each; for `SamplingParams.visible_tokens`."""
        return self._mesh.admission.special_tokens(texts)

    def prompt_tokens(self, prompt: str | Sequence[int | str]) -> tuple[int, ...]:
        """The tokens that `generate` would make of a prompt.

        Raises:
            InvalidRequestError: As `generate`.
        """
        return self._mesh.admission.prompt_tokens(prompt)

    def raw_prompt(self, laid_out: str) -> str:
        """What the chat template laid out, as `generate` takes it: without the BOS that it adds."""
        return self._mesh.admission.raw_prompt(laid_out)

    def chat_prompt(self, messages: Messages, *, template_variables: Mapping[str, object] | None = None) -> str:
        """The prompt with which `generate` says what `chat` says to messages; raises as `chat_tokens`.

        >>> "Why?" in mesh.chat_prompt([{"role": "user", "content": "Why?"}])
        True
        """
        return self._mesh.admission.chat_prompt(messages, template_variables)

    def chat_tokens(
        self, messages: Messages, *, template_variables: Mapping[str, object] | None = None
    ) -> tuple[int, ...]:
        """The tokens that `chat` would make of messages; for `generate`.

        Raises:
            InvalidRequestError: As `chat`.
        """
        return self._mesh.admission.chat_tokens(messages, template_variables)
