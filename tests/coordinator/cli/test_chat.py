# SPDX-License-Identifier: MIT
"""`caravan chat`: on a real terminal over real workers, and line by line from a pipe."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.cli.chat_settings import changed, described
from coordinator.cli.conversation import Conversation
from coordinator.cli.exits import UserError
from coordinator.cli.options import SamplingOptions
from native import SamplingParams
from tests.coordinator.caravan_command import ALONE, caravan
from tests.coordinator.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, UP, in_terminal
from tests.line.processes import WorkerProcess

_PROMPT = r"\n>[ \x08]*$"


@pytest.fixture
def two_workers() -> Iterator[list[WorkerProcess]]:
    started: list[WorkerProcess] = []
    try:
        started += [WorkerProcess(name, "--keep-loaded", "0") for name in ("attic", "cellar")]
        yield started
    finally:
        for worker in started:
            worker.stop()


def test_a_chat_on_a_terminal_outlives_ctrl_c_and_a_worker_and_remembers_what_was_typed(
    two_workers: list[WorkerProcess], tmp_path: Path
) -> None:
    history = tmp_path / "caravan" / "chat-history"
    history.parent.mkdir()
    history.write_text("\n# 2026-01-01 00:00:00.000000\n+of an earlier chat\n")
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text('root ::= "ab" root\n')
    workers = [each for worker in two_workers for each in ("--worker", worker.address)]
    line = (*workers, "--distribution", "on", "--context", "1024", "--grammar-file", str(grammar), *ALONE)
    with in_terminal("chat", "demo", "-n", "10", *line, XDG_STATE_HOME=str(tmp_path)) as terminal:
        terminal.wait_for(r"attic +\S+ +layers[\s\S]*cellar +\S+ +layers[^>]*" + _PROMPT)

        terminal.type("first\\" + ENTER + "second" + ALT_ENTER + "third" + ENTER)
        terminal.wait_for(r"[ab]{8,}\n[^>]*" + _PROMPT)
        terminal.type("/save " + str(tmp_path / "said.json") + ENTER)
        terminal.wait_for("2 messages are in .*" + _PROMPT)
        said = json.loads((tmp_path / "said.json").read_text())["messages"]
        assert said[0] == {"role": "user", "content": "first\nsecond\nthird"}
        assert said[1]["role"] == "assistant"

        terminal.type(UP * 3 + UP * 2 + ENTER)  # over /save and the three lines, to what the file had
        terminal.wait_for(r"of an earlier chat[\s\S]*[ab]{8,}\n[^>]*" + _PROMPT)

        terminal.type("/set max-tokens 700" + ENTER)
        terminal.wait_for(_PROMPT)
        terminal.type("go on" + ENTER)
        terminal.wait_for("abababab")
        terminal.type(CTRL_C)
        stopped = terminal.wait_for("stopped; Ctrl-C again leaves[^>]*" + _PROMPT)
        assert stopped.count("ab") < 350

        terminal.type("/retry" + ENTER)
        terminal.wait_for("abababab")
        two_workers[1].kill()
        terminal.wait_for(r"\ncaravan: [^\n]*cellar was lost: going on with attic[^\n]*\n[ab]+\n[^>]*" + _PROMPT)

        terminal.type("/stats" + ENTER)
        shown = terminal.wait_for(r"layers 0 to 7[^>]*" + _PROMPT)
        assert re.search(r"\d+ tokens, [\d.]+ tokens per second; \d+ prompt tokens, TTFT \d+ ms", shown)
        assert re.search(r"\d+ of the prompt tokens were in the cache", shown)
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert "+go on\n" in history.read_text()


def test_a_pipe_gives_messages_and_commands_and_what_is_refused_was_not_said(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    too_long = "a story " * 300
    typed = (
        f"Tell me a\\\nstory.\n/system Be brief.\n/stats\n/set top-k many\n{too_long}\n/retry\n/save {kept}\n/walk\n"
    )
    ended = caravan("chat", "demo", "--temperature", "0", "-n", "12", "--context", "256", *ALONE, stdin=typed)
    assert ended.returncode == 1, ended.stderr  # some were refused
    system, question, answer = json.loads(kept.read_text())["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert question == {"role": "user", "content": "Tell me a\nstory."}
    assert ended.stdout.endswith("\n" + answer["content"] + "\n")
    assert len(ended.stdout) > len(answer["content"]) + 10
    for refused in ("top-k: 'many' is not a valid integer", "there is no /walk", "the prompt has "):
        assert f"caravan: {refused}" in ended.stderr
    assert re.search(r"context: \d+ of 256 tokens", ended.stderr)
    assert "\x1b" not in ended.stdout + ended.stderr


def test_a_conversation_is_what_was_saved_and_no_other_file_is_overwritten(tmp_path: Path) -> None:
    path, other = tmp_path / "chat.json", tmp_path / "notes.txt"
    conversation = Conversation()
    conversation.system = "Be brief."
    conversation.ask("Why?")
    conversation.answer("Löve.")
    conversation.save(path, "demo")
    conversation.save(path, "demo")
    assert Conversation.load(path).messages == conversation.messages
    other.write_text("mine")
    with pytest.raises(UserError, match="no conversation"):
        conversation.save(other, "demo")
    assert other.read_text() == "mine"


def test_settings_have_the_names_and_bounds_of_the_flags() -> None:
    sampling = SamplingOptions(SamplingParams(seed=3), 12, ())
    assert changed(sampling, "--top_k", "5").params.top_k == 5
    assert changed(changed(sampling, "max-tokens", "none"), "temperature", "0").max_tokens is None
    assert "seed random" in described(changed(sampling, "seed", "random")).splitlines()
    for name, value in (("top-p", "2"), ("warmth", "1"), ("max-tokens", "0")):
        with pytest.raises(UserError, match=name):
            changed(sampling, name, value)
