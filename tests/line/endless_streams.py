# SPDX-License-Identifier: MIT
"""Streams that are begun anew when they end, for as long as something is done to their line; each is then held against
one that nothing was done to."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from coordinator import Generation, Mesh, SamplingParams
from tests.line.near_ties import NEAR_OVER_BATCHES, check_same
from tests.line.reference import Reference

PROMPTS = (
    "Once upon a time", "Maya the llama", "The river was", "One day",
    "In the attic", "A lantern", "The old desk", "She sang",
)  # fmt: skip


class EndlessStreams:
    """Greedy ones of a mesh, one for each prompt, on threads of their own. Undisturbed ones go before."""

    def __init__(self, mesh: Mesh, n_tokens: int, prompts: Sequence[str] = PROMPTS) -> None:
        self._mesh = mesh
        self._n_tokens = n_tokens
        self._prompts = prompts
        vocabulary = mesh.vocabulary
        self._ends = [token for token in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(token)]
        bias = tuple((token, float("-inf")) for token in self._ends)
        self._sampling = SamplingParams(temperature=0, logit_bias=bias, logprobs=True, n_top_logprobs=10)
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
