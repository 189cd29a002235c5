# SPDX-License-Identifier: MIT
"""A chat of many turns with the model that ships inside, whose template and tokenizer are real: how many tokens of its
prompts are computed. A count: it depends on no clock and no machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from benchmark.row import CARAVAN, Contender, Setting
from coordinator import Mesh, SamplingParams

WITHOUT = "without reuse"
N_TURNS = 20
_N_ANSWER = 16
_SYSTEM = "You tell short stories."
_TURNS = ("What did the cat do then?", "Tell me more.", "And the dog?", "Was it raining?", "Who came by?")


@contextlib.contextmanager
def chat(_setting: Setting) -> Iterator[Sequence[Contender]]:
    """The same chat twice, over two workers of this machine."""
    with Mesh.open("demo", discover=False, local_workers=2, context=1024, parallel=1) as mesh:

        def both() -> Mapping[str, float]:
            return {CARAVAN: _n_computed(mesh, reuse=True), WITHOUT: _n_computed(mesh, reuse=False)}

        yield [both]


def _n_computed(mesh: Mesh, *, reuse: bool) -> int:
    """Tokens of the prompts of all turns that were computed; each turn sends the whole chat so far, as clients do."""
    messages: list[dict[str, object]] = [{"role": "system", "content": _SYSTEM}]
    n_computed = 0
    for number in range(N_TURNS):
        messages.append({"role": "user", "content": _TURNS[number % len(_TURNS)]})
        answer = mesh.chat(
            messages, sampling=SamplingParams(temperature=0), max_tokens=_N_ANSWER, cache_prompt=reuse
        ).wait()
        messages.append({"role": "assistant", "content": answer.text})
        n_computed += answer.usage.prompt_tokens - answer.usage.cached_tokens
    return n_computed
