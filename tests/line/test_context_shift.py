# SPDX-License-Identifier: MIT
"""A request that goes on when its context is full: the tokens of llama.cpp that shifts its own."""

from pathlib import Path

import pytest

from coordinator import SamplingParams, UnsupportedModelError
from tests.line.conftest import open_mesh
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference
from tests.models import write_model

_N_CTX = 256
_PROMPT = "Once upon a time there was a llama named Maya. She walked to the river and sang a little song."
_N_TOKENS = 420
"""The context is full for the second time after 370 or so."""


@pytest.mark.parametrize("n_keep", [0, -1])
def test_tokens_are_those_of_llama_cpp_that_shifts_alone(
    workers: list[WorkerProcess], demo_path: Path, n_keep: int
) -> None:
    reference = Reference(demo_path, n_ctx=_N_CTX, n_batch=64)
    try:
        with open_mesh(workers[:2], context=_N_CTX, context_shift=True) as mesh:
            vocabulary = mesh.vocabulary
            prompt = vocabulary.tokenize(_PROMPT, add_special=True, parse_special=False)
            ends = [token for token in range(vocabulary.n_tokens) if vocabulary.is_end_of_generation(token)]
            sampling = SamplingParams(temperature=0, logit_bias=tuple((token, float("-inf")) for token in ends))
            generation = mesh.generate(prompt, sampling=sampling, max_tokens=_N_TOKENS, n_keep=n_keep).wait()
            again = mesh.generate(prompt, max_tokens=1).wait()
            n_kept = vocabulary.add_bos + (len(prompt) if n_keep < 0 else 0)
        assert [token.id for token in generation.tokens] == reference.shifting_tokens(prompt, _N_TOKENS, n_kept, ends)
        # Another request can go on from what was kept, and from nothing that was moved up.
        assert again.usage.cached_tokens == (len(prompt) - 1 if n_keep < 0 else 0)
    finally:
        reference.close()


def test_a_model_that_cannot_shift_is_refused_in_a_sentence(workers: list[WorkerProcess], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.gguf", "mamba", n_layer=2, with_text=True)
    with pytest.raises(UnsupportedModelError, match="cannot shift the context of model: leave context_shift"):
        open_mesh(workers[:1], model, context_shift=True)
