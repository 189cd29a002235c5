# SPDX-License-Identifier: MIT
"""The promise: over several workers, the same tokens as llama-cpp-python gives from the same file alone."""

import threading
from pathlib import Path

import pytest

from coordinator import FlashAttention, Generation, Mesh, SamplingParams
from tests.line.conftest import N_BATCH, N_CTX, open_mesh
from tests.line.near_ties import check_same
from tests.line.processes import WorkerProcess
from tests.line.reference import Reference

GREEDY = SamplingParams(temperature=0)
GREEDY_LOGPROBS = SamplingParams(temperature=0, logprobs=True, n_top_logprobs=10)

PROMPTS = [
    "Once upon a time",
    "Maya the llama",
    "The river was",
    "One day",
    "In the town of Moon Rock",
    "She said:",
    "Then a white mist",
    "Two friends",
]
LONG_PROMPT = "Once upon a time there was a llama named Maya. She walked to the river and sang a little song. " * 6


@pytest.mark.parametrize("n_stages", [1, 2, 3])
def test_greedy_text_is_what_llama_cpp_python_prints(
    workers: list[WorkerProcess], reference: Reference, n_stages: int
) -> None:
    with open_mesh(workers[:n_stages]) as mesh:
        assert len(mesh.plan.stages) == n_stages
        for prompt in PROMPTS[:3]:
            generation = mesh.generate(prompt, sampling=GREEDY, max_tokens=60).wait()
            assert generation.text == reference.text(prompt, temperature=0, max_tokens=60)
        following = [frame.is_following for frame in mesh.activity(60.0)[0].frames]
        # Of the tokens of lone streams all but the first two go straight from the last worker to the first.
        assert (sum(following) > 0.9 * len(following)) == (n_stages > 1)


def test_the_main_worker_has_the_output_layer(workers: list[WorkerProcess], reference: Reference) -> None:
    names = [worker.name for worker in workers[:2]]
    for main in names:
        with open_mesh(workers[:2], main=main) as mesh:
            assert [stage.worker for stage in mesh.plan.stages] == [*(name for name in names if name != main), main]
            generation = mesh.generate(PROMPTS[0], sampling=GREEDY, max_tokens=20).wait()
            assert generation.text == reference.text(PROMPTS[0], temperature=0, max_tokens=20)


def test_a_prompt_longer_than_a_batch_gives_the_same_text(mesh: Mesh, reference: Reference) -> None:
    generation = mesh.generate(LONG_PROMPT, sampling=GREEDY, max_tokens=40).wait()
    assert generation.usage.prompt_tokens > 2 * N_BATCH
    assert generation.text == reference.text(LONG_PROMPT, temperature=0, max_tokens=40)


@pytest.mark.parametrize("seed", [1, 2**32 - 2])
def test_a_seeded_temperature_gives_the_same_text(mesh: Mesh, reference: Reference, seed: int) -> None:
    generation = mesh.generate(PROMPTS[0], sampling=SamplingParams(temperature=0.8, seed=seed), max_tokens=60).wait()
    assert generation.text == reference.text(PROMPTS[0], temperature=0.8, seed=seed, max_tokens=60)


def test_penalties_change_the_text_and_give_the_same_again(mesh: Mesh) -> None:
    """They cannot be held against llama-cpp-python's, which do not see the prompt, as llama-server's and ours do."""
    sampling = SamplingParams(temperature=0, repeat_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1)
    generation = mesh.generate(PROMPTS[0], sampling=sampling, max_tokens=60).wait()
    assert generation.text != mesh.generate(PROMPTS[0], sampling=GREEDY, max_tokens=60).wait().text
    assert generation.text == mesh.generate(PROMPTS[0], sampling=sampling, max_tokens=60).wait().text


def test_flash_attention_gives_the_same_text_as_flash_attention(workers: list[WorkerProcess], demo_path: Path) -> None:
    reference = Reference(demo_path, n_ctx=N_CTX, n_batch=N_BATCH, flash_attn=True)
    try:
        with open_mesh(workers[:2], flash_attention=FlashAttention.ON) as mesh:
            generation = mesh.generate(PROMPTS[0], sampling=GREEDY, max_tokens=60).wait()
            assert generation.text == reference.text(PROMPTS[0], temperature=0, max_tokens=60)
    finally:
        reference.close()


def test_a_chat_gives_the_same_answer(mesh: Mesh, reference: Reference) -> None:
    messages = [{"role": "user", "content": "Tell me a story about a llama."}]
    generation = mesh.chat(messages, sampling=GREEDY, max_tokens=60).wait()
    assert generation.text == reference.answer(messages, temperature=0, max_tokens=60)


def test_eight_requests_at_once_from_eight_threads_give_the_same_tokens(
    workers: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(workers[:2], parallel=8) as mesh:
        generations: dict[str, Generation] = {}

        def ask(prompt: str) -> None:
            generations[prompt] = mesh.generate(prompt, sampling=GREEDY_LOGPROBS, max_tokens=50).wait()

        threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(generations) == set(PROMPTS)
    for generation in generations.values():
        expected = reference.greedy_tokens(generation.prompt_tokens, 50)
        check_same(reference, generation.prompt_tokens, expected, generation.tokens)


def test_eight_seeded_requests_at_once_give_the_same_tokens(workers: list[WorkerProcess], reference: Reference) -> None:
    with open_mesh(workers[:2], parallel=8) as mesh:
        generations = [
            mesh.generate(prompt, sampling=SamplingParams(temperature=0.8, seed=seed), max_tokens=40)
            for seed, prompt in enumerate(PROMPTS)
        ]
        for seed, generation in enumerate(generations):
            generation.wait()
            expected = reference.sampled_tokens(generation.prompt_tokens, 40, seed)
            check_same(reference, generation.prompt_tokens, expected, generation.tokens, greedy=False)


def test_more_requests_than_slots_wait_and_give_the_same_tokens(
    workers: list[WorkerProcess], reference: Reference
) -> None:
    with open_mesh(workers, parallel=2) as mesh:
        generations = [mesh.generate(prompt, sampling=GREEDY_LOGPROBS, max_tokens=20) for prompt in PROMPTS]
        assert mesh.n_waiting > 0
        for generation in generations:
            generation.wait()
            expected = reference.greedy_tokens(generation.prompt_tokens, 20)
            check_same(reference, generation.prompt_tokens, expected, generation.tokens)
        assert mesh.n_waiting == 0


def test_a_request_beside_others_does_not_see_them(mesh: Mesh, reference: Reference) -> None:
    alone = reference.text(PROMPTS[1], temperature=0, max_tokens=30)
    others = [mesh.generate(LONG_PROMPT, sampling=GREEDY, max_tokens=20) for _ in range(3)]
    beside = mesh.generate(PROMPTS[1], sampling=GREEDY_LOGPROBS, max_tokens=30).wait()
    for other in others:
        other.wait()
    after = mesh.generate(PROMPTS[1], sampling=GREEDY, max_tokens=30).wait()
    assert after.text == alone
    check_same(reference, beside.prompt_tokens, [token.id for token in after.tokens], beside.tokens)


def test_token_ids_as_a_prompt_are_the_same_as_their_text(mesh: Mesh) -> None:
    text = mesh.generate(PROMPTS[0], sampling=GREEDY, max_tokens=10).wait()
    tokens = mesh.generate(mesh.prompt_tokens(PROMPTS[0]), sampling=GREEDY, max_tokens=10).wait()
    assert tokens.tokens == text.tokens
