# SPDX-License-Identifier: MIT
"""What the demo model says, greedily, through two workers: pinned, so that a wrong activation shows as a wrong word.

Made with llama-cpp-python alone on the same file. A new demo model needs new texts here.
"""

import pytest

from coordinator import Distribution, Mesh, SamplingParams
from tests.line.conftest import N_CTX
from tests.line.processes import WorkerProcess

PROMPTS = {
    "Once, a llama named": (
        " Mina lived in the town of Silver Dune. She had never been farther than the nearest hill. "
        "She bought a small flower from an old merchant for two dates.\n\nOne day her friend Plai, a "
        "llama, did not come home."
    ),
    "Long ago, in the town of": (
        " Silver Dune, there lived a llama named Mina. She bought a small cake from an old "
        "merchant for two dates.\n\nOne night something moved behind the tent. Mina looked out. It "
        'was Mina, a llama. "I did not want to wake you'
    ),
    "The lantern and the storm\n\n": (
        "Once upon a time a little brother named Mina lived in the town of Silver Dune. She had "
        "never been farther than the nearest hill. She bought a small lantern from an old merchant "
        "for two dates.\n\nOne day her friend Pico, a"
    ),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_demo_model_tells_its_story_word_for_word(workers: list[WorkerProcess], prompt: str) -> None:
    addresses = [worker.address for worker in workers[:2]]
    with Mesh.open("demo", workers=addresses, discover=False, context=N_CTX, distribution=Distribution.ON) as mesh:
        assert len(mesh.plan.stages) == 2
        generation = mesh.generate(prompt, sampling=SamplingParams(temperature=0), max_tokens=60)
        assert "".join(token.text for token in generation) == PROMPTS[prompt]
