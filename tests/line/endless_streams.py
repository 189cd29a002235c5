# SPDX-License-Identifier: MIT
"""Streams that the model does not end; and those that are begun anew when they end, for as long as something is done to
their line, and are then held against one that nothing was done to."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from coordinator import AsyncMesh, Generation, Mesh, SamplingParams
from tests.line.near_ties import NEAR_OVER_BATCHES, check_same
from tests.line.reference import Reference

PROMPTS = (
    "Once upon a time", "Maya the llama", "The river was", "One day",
    "In the attic", "A lantern", "The old desk", "She sang",
)  # fmt: skip


def ends_of(mesh: Mesh | AsyncMesh) -> list[int]:
    """The tokens with which its model ends a text."""
    vocabulary = mesh.vocabulary
    return [token for token in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(token)]


def endless(mesh: Mesh | AsyncMesh, **parameters: object) -> SamplingParams:
    """Greedy unless told otherwise, without an end before `max_tokens`, and with what tells a near tie."""
    bias = tuple((token, float("-inf")) for token in ends_of(mesh))
    chosen: dict[str, object] = {"temperature": 0, "logprobs": True, "n_top_logprobs": 10, **parameters}
    return SamplingParams(logit_bias=bias, **chosen)  # type: ignore[arg-type]


class EndlessStreams:
    """Greedy ones of a mesh, one for each prompt, on threads of their own. Undisturbed ones go before."""

    def __init__(self, mesh: Mesh, n_tokens: int, prompts: Sequence[str] = PROMPTS) -> None:
        self._mesh = mesh
        self._n_tokens = n_tokens
        self._prompts = prompts
        self._ends, self._sampling = ends_of(mesh), endless(mesh)
        undisturbed = [self._begin(number) for number in range(len(prompts))]
        self._undisturbed = [[token.id for token in generation.wait().tokens] for generation in undisturbed]
        self._ended: list[tuple[int, Generation]] = []
        self._errors: list[Exception] = []
        self._is_over = threading.Event()

    @property
    def n_ended(self) -> int:
        """How many have."""
        return len(self._ended)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """They run; at the end those that do are waited for."""
        threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(len(self._prompts))]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def check(self, reference: Reference) -> None:
        """None failed, and each has the tokens that it is to have."""
        assert not self._errors, f"{len(self._errors)} failed, such as with: {self._errors[0]}"
        assert self.n_ended >= len(self._prompts)
        for number, generation in self._ended:
            expected, tokens = self._undisturbed[number], generation.tokens
            prompt, near = generation.prompt_tokens, NEAR_OVER_BATCHES
            check_same(reference, prompt, expected, tokens, forbidden=self._ends, near=near)

    def _begin(self, number: int) -> Generation:
        prompt = self._prompts[number]
        return self._mesh.generate(prompt, sampling=self._sampling, max_tokens=self._n_tokens, cache_prompt=False)

    def _ask(self, number: int) -> None:
        while True:
            try:
                self._ended.append((number, self._begin(number).wait()))
            except Exception as error:
                self._errors.append(error)
            if self._errors or self._is_over.is_set():
                return
