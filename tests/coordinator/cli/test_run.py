# SPDX-License-Identifier: MIT
"""`caravan run` and `caravan demo` with real workers: what goes to stdout, what to stderr, and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from llama_cpp import Llama

from tests.coordinator.caravan_command import (
    ALONE,
    DEMO_MODEL,
    all_end,
    caravan,
    family_of,
    press_ctrl_c,
    started,
    wait_until,
)

_BEGIN = "Once upon a time"


def _same_alone(prompt: str, max_tokens: int) -> str:
    llama = Llama(str(DEMO_MODEL), n_ctx=1024, verbose=False)
    try:
        answer = llama.create_completion(prompt, max_tokens=max_tokens, temperature=0.0)
        assert isinstance(answer, dict)
        return str(answer["choices"][0]["text"])
    finally:
        llama.close()


def test_run_without_workers_starts_one_and_prints_what_llama_cpp_prints_alone() -> None:
    ended = caravan("run", DEMO_MODEL, _BEGIN, "--temperature", "0", "-n", "24", "--stats", *ALONE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == _same_alone(_BEGIN, 24) + "\n"
    told = ended.stderr.splitlines()
    assert "no worker" in told[0]
    assert any(re.search(r"127\.0\.0\.1:\d+  layers 0 to \d+ of \d+, [\d.]+ MiB on ", line) for line in told)
    assert re.match(r"24 tokens, [\d.]+ tokens per second; \d+ prompt tokens, TTFT \d+ ms", told[-1])
    assert "\x1b" not in ended.stderr


def test_embed_prints_a_vector_a_line() -> None:
    ended = caravan("embed", DEMO_MODEL, "a llama", "a lantern", *ALONE)
    assert ended.returncode == 0, ended.stderr
    one, other = map(json.loads, ended.stdout.splitlines())
    assert len(one) == len(other) == 256
    assert sum(number * number for number in one) == pytest.approx(1)
    assert one != other


def test_layers_are_laid_out_by_hand_and_the_text_is_the_same() -> None:
    line = ("--local", "2", "--layers", "0,1-7")
    ended = caravan("run", "demo", _BEGIN, "--temperature", "0", "-n", "50", *line, *ALONE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == _same_alone(_BEGIN, 50) + "\n"
    assert "layer 0 of 8" in ended.stderr
    assert "layers 1 to 7 of 8" in ended.stderr


def test_the_prompt_may_come_from_standard_input_and_a_grammar_from_a_file(tmp_path: Path) -> None:
    grammar = tmp_path / "answer.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    ended = caravan("run", "demo", "-", "--chat", "--grammar-file", grammar, *ALONE, stdin="Are llamas kind?")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout in ("yes\n", "no\n")


def test_demo_tells_a_story_through_two_workers() -> None:
    ended = caravan("demo", "--seed", "7")
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.split()) > 40
    assert "llama" in ended.stdout
    ranges = re.findall(r"^\S+ +127\.0\.0\.1:\d+  layers (\d+) to (\d+) of (\d+)", ended.stderr, re.MULTILINE)
    (first, cut, n_layer), (after, last, _) = ranges
    assert (first, int(after), int(last) + 1) == ("0", int(cut) + 1, int(n_layer))
    assert re.search(r"[\d.]+ tokens per second", ended.stderr)
    assert "caravan run" in ended.stderr.splitlines()[-1]


@pytest.fixture
def endless_grammar(tmp_path: Path) -> Path:
    """Never lets a text end."""
    path = tmp_path / "endless.gbnf"
    path.write_text('root ::= "ab" root\n')
    return path


def test_ctrl_c_ends_everything_that_was_started(endless_grammar: Path) -> None:
    with started("run", "demo", "go", "--grammar-file", endless_grammar, "--local", "2", *ALONE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(8) == "abababab"
        family = family_of(process)
        assert len(family) == 3
        press_ctrl_c(process)
        assert process.wait(60) == 130
        assert all_end(family)
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("command", ["run", "serve"])
def test_ctrl_c_while_workers_start_ends_them(command: str) -> None:
    args = ("demo", "go") if command == "run" else ("demo", "--listen", "127.0.0.1:0")
    with started(command, *args, "--local", "2", *ALONE) as process:
        assert process.stderr is not None
        wait_until(lambda: len(family_of(process)) == 3)
        family = family_of(process)
        press_ctrl_c(process)
        assert process.wait(60) == 130
        assert all_end(family)
        assert "Traceback" not in process.stderr.read()


def test_a_reader_that_leaves_is_no_error(endless_grammar: Path) -> None:
    with started("run", "demo", "go", "--grammar-file", endless_grammar, *ALONE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == "abab"
        family = family_of(process)
        process.stdout.close()
        assert process.wait(60) == 0
        assert all_end(family)
        assert "Traceback" not in process.stderr.read()
