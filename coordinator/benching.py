# SPDX-License-Identifier: MIT
"""How fast an open mesh is: tests as llama-bench has them (a prompt of so many tokens, so many tokens generated), and
the latter with several streams at a time. Blocks; for `caravan bench`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.frame_log import KEPT_S
from coordinator.generation import Generation
from coordinator.mesh import Mesh
from coordinator.waterfall import LEAST_WINDOW_S
from native import SamplingParams

_SEED = 1
"""Of made-up prompts: the same in every run."""


@dataclass(frozen=True, slots=True)
class BenchTest:
    """One of them: a prompt (`n_generated` is 0), or generating behind one token.

    Attributes:
        n_prompt: Tokens of the prompt.
        n_streams: Requests at a time.
    """

    n_prompt: int = 1
    n_generated: int = 0
    n_streams: int = 1

    @property
    def name(self) -> str:
        """As llama-bench calls it: "pp512", "tg128"; with several streams "tg128 x4"."""
        name = f"tg{self.n_generated}" if self.n_generated else f"pp{self.n_prompt}"
        return name if self.n_streams == 1 else f"{name} x{self.n_streams}"

    @property
    def n_ctx(self) -> int:
        """Tokens of context that a stream of it takes."""
        return self.n_prompt + self.n_generated + 1


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What came of a test.

    Attributes:
        tokens_per_s: Of each repetition, in their order; of all streams together.
        ttft_s: From submission to the first token, the median of all requests.
        limits: What limited the speed of each line meanwhile, in words.
    """

    test: BenchTest
    tokens_per_s: tuple[float, ...]
    ttft_s: float
    limits: tuple[str, ...]

    @property
    def median(self) -> float:
        """Tokens per second."""
        return statistics.median(self.tokens_per_s)

    @property
    def deviation(self) -> float:
        """Standard deviation of the repetitions, as llama-bench tells it; 0 of one alone."""
        return statistics.stdev(self.tokens_per_s) if len(self.tokens_per_s) > 1 else 0.0


class Bench:
    """Tests of one mesh that nobody else uses."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        vocabulary = mesh.vocabulary
        ends = filter(vocabulary.is_end_of_generation, range(vocabulary.n_tokens))
        # It is to generate as much as it is asked for.
        forbidden = tuple((token, float("-inf")) for token in ends)
        self._sampling = SamplingParams(temperature=0.0, logit_bias=forbidden)
        self._random = random.Random(_SEED)

    def run(self, test: BenchTest, n_repetitions: int, on_done: Callable[[int], object]) -> BenchResult:
        """Runs a test once to warm up, and then so often.

        Args:
            on_done: Told how many of those are done.

        Raises:
            CaravanError: A request failed.
        """
        self._once(test)
        started_s = time.monotonic()
        speeds, firsts = [], []
        for number in range(n_repetitions):
            speed, first_s = self._once(test)
            speeds.append(speed)
            firsts += first_s
            on_done(number + 1)
        window_s = min(max(time.monotonic() - started_s, LEAST_WINDOW_S), KEPT_S)
        limits = tuple(line.limit.sentence for line in self._mesh.activity(window_s))
        return BenchResult(test, tuple(speeds), statistics.median(firsts), limits)

    def _once(self, test: BenchTest) -> tuple[float, list[float]]:
        """Tokens per second, and the seconds that each request's first token took."""
        running = [self._begin(test) for _ in range(test.n_streams)]
        usages = [generation.wait().usage for generation in running]
        firsts = [usage.queued_s + usage.prefill_s for usage in usages]
        if test.n_generated:
            n_tokens, took_s = sum(usage.completion_tokens - 1 for usage in usages), max(u.decode_s for u in usages)
        else:
            n_tokens, took_s = sum(usage.prompt_tokens for usage in usages), max(u.prefill_s for u in usages)
        return n_tokens / took_s, firsts

    def _begin(self, test: BenchTest) -> Generation:
        n_vocab = self._mesh.vocabulary.n_tokens
        prompt = [self._random.randrange(n_vocab) for _ in range(test.n_prompt)]
        return self._mesh.generate(prompt, sampling=self._sampling, max_tokens=test.n_generated + 1, cache_prompt=False)
