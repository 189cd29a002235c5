# SPDX-License-Identifier: MIT
"""`caravan completion`: what a real bash completes with it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.coordinator.caravan_command import caravan_here, command_line, environment


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_commands_options_and_their_values(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(caravan_here("completion", "bash").stdout)
    program = tmp_path / "caravan"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command_line())} "$@"\n')
    program.chmod(0o755)
    for typed, expected in (
        (("ver",), {"verify"}),
        (("bench", "model.gguf", "--repe"), {"--repetitions"}),
        (("run", "--distribution", "o"), {"on", "off"}),
        (("cluster", "ro"), {"rotate"}),
    ):
        words = shlex.join(("caravan", *typed))
        asked = (
            f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _caravan_completion caravan;"
            """ printf '%s\\n' "${COMPREPLY[@]}\""""
        )
        env = environment(PATH=f"{tmp_path}:{environment()['PATH']}")
        ended = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, env=env, timeout=60, check=False)
        assert set(ended.stdout.split()) == expected, ended.stderr


_ZSH = (
    "compdef() {{ }}; compadd() {{ print -rl -- $completions }}; _describe() {{ print -rl -- $"
    "completions_with_descriptions }}; source {script}; words=({words}); CURRENT=$#words; _caravan_completion"
)
"""What only zsh's line editor has stands for itself."""


@pytest.mark.parametrize(
    ("shell", "options", "asked"),
    [("zsh", ("-f", "-c"), _ZSH), ("fish", ("--no-config", "-c"), "source {script}; complete -C '{words}'")],
)
def test_zsh_and_fish_complete_commands_and_options(
    shell: str, options: tuple[str, ...], asked: str, tmp_path: Path
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    script = tmp_path / "completion"
    script.write_text(caravan_here("completion", shell).stdout)
    program = tmp_path / "caravan"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command_line())} "$@"\n')
    program.chmod(0o755)
    env = environment(PATH=f"{tmp_path}:{environment()['PATH']}")
    for typed, expected in (("caravan ver", "verify"), ("caravan bench model.gguf --repe", "--repetitions")):
        command = [shell, *options, asked.format(script=script, words=typed)]
        ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=30, check=False)
        assert [line.replace(":", "\t").split("\t")[0] for line in ended.stdout.splitlines()] == [expected], (
            ended.stderr
        )


def test_scripts_of_other_shells_ask_the_same_program() -> None:
    for shell in ("zsh", "fish"):
        assert "_CARAVAN_COMPLETE" in caravan_here("completion", shell).stdout
    assert caravan_here("completion", "csh").returncode == 2
