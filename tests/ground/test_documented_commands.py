# SPDX-License-Identifier: MIT
"""What the documents say to type can be typed: every `caravan` command of README.md and docs/ is one, with options
that it has; blocks that are not marked as `not run` are run here, on this machine alone."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import worker.cache
import worker.cli
from coordinator.cli.root import root
from tests.coordinator.caravan_command import DEMO_MODEL, command_line, environment
from tests.ground.documented import Block, Typed, blocks, commands, documents, inline_commands
from tests.ground.repository import ROOT

# These pass all that they are given on to a program of the worker's.
_PASSED_ON = {"worker": worker.cli.command, "cache": worker.cache.command}

_SHELL_BLOCKS = [block for page in documents() for block in blocks(page) if block.language == "sh"]


def _typed() -> Iterator[Typed]:
    for block in _SHELL_BLOCKS:
        yield from commands(block)
    for page in documents():
        yield from inline_commands(page)


def _complaint(typed: Typed) -> str | None:
    """What click has against a command, if anything."""
    try:
        _parse(root, list(typed.words[1:]), is_whole=typed.is_whole)
    except click.UsageError as error:
        return f"{shlex.join(typed.words)}: {error.format_message()}"
    return None


def _parse(command: click.Command, words: list[str], *, is_whole: bool = True) -> None:
    """By the command's own parser: click.UsageError says what it does not take. Opens and asks nothing.

    Args:
        is_whole: Nothing may be missing.
    """
    context = click.Context(command)
    options, left, _ = command.make_parser(context).parse_args(words)
    if isinstance(command, click.Group):
        if left:
            _parse(_member(command, context, left[0]), left[1:], is_whole=is_whole)
        return
    is_whole = is_whole and not any(option in words for option in context.help_option_names)
    for parameter in command.params:
        value = options.get(parameter.name or "")
        if is_whole and parameter.required and parameter.value_is_missing(value):
            raise click.MissingParameter(ctx=context, param=parameter)
        # What these take is known without looking at this machine.
        if isinstance(parameter.type, click.Choice | click.IntRange | click.FloatRange):
            parameter.type_cast_value(context, value)
    if left:
        raise click.UsageError(f"there is no place for {' '.join(left)}")


def _member(group: click.Group, context: click.Context, name: str) -> click.Command:
    command = group.get_command(context, name)
    if command is None:
        raise click.UsageError(f"there is no command {name}")
    takes_anything = any(parameter.type is click.UNPROCESSED for parameter in command.params)
    return _PASSED_ON[name] if takes_anything else command


def test_every_caravan_command_in_the_documents_is_one() -> None:
    typed = [command for command in _typed() if command.program == "caravan"]
    assert len(typed) > 50
    complaints = [f"{command.place}: {complaint}" for command in typed if (complaint := _complaint(command))]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("run model.gguf hello --maxtokens 3", "maxtokens"),
        ("run model.gguf hello --kv-type q9_9", "q9_9"),
        ("runs model.gguf hello", "runs"),
        ("worker --joins CODE", "joins"),
        ("cache prune --older-than 3 --then", "then"),
        ("run", "Missing"),
    ],
)
def test_a_command_that_is_none_is_found(wrong: str, complaint: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        _parse(root, wrong.split())
    assert complaint in caught.value.format_message()


def test_every_script_in_the_documents_is_there_and_knows_its_options() -> None:
    files = (path for path in (ROOT / "scripts").rglob("[!.]*") if path.is_file() and path.suffix in ("", ".py"))
    sources = "".join(path.read_text(encoding="utf-8") for path in files)
    for command in _typed():
        if command.words[0].removeprefix("./").startswith("scripts/"):
            assert (ROOT / command.words[0]).is_file(), command
            for word in command.words[1:]:
                assert not word.startswith("--") or word in sources, f"{command.place}: nothing there knows {word}"


def test_a_block_that_is_not_run_says_why() -> None:
    for block in _SHELL_BLOCKS:
        assert block.test is None or (ROOT / block.test).is_file(), f"{block} names {block.test}, which is not there"
        assert block.reason is None or len(block.reason) > 5, f"{block}: {block.reason}"


@pytest.mark.parametrize("block", [block for block in _SHELL_BLOCKS if block.is_run], ids=str)
def test_a_block_that_is_not_marked_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to(DEMO_MODEL)
    (tmp_path / "machines.toml").write_text(_inventory(), encoding="utf-8")
    caravan = tmp_path / "bin" / "caravan"
    caravan.parent.mkdir()
    caravan.write_text(f'#!/bin/sh\nexec {shlex.join(command_line())} "$@"\n')
    caravan.chmod(0o755)
    config = tmp_path / "config.toml"
    config.write_text("discovery-timeout = 0\n")
    variables = environment(
        PATH=f"{caravan.parent}:{os.environ['PATH']}",
        CARAVAN_CONFIG=str(config),
        CARAVAN_CACHE=str(tmp_path / "cache"),
        CARAVAN_IDENTITY=str(tmp_path / "identity"),
    )
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    ran = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


def _inventory() -> str:
    """The one that docs/planner.md shows."""
    return next(block.text for block in blocks(ROOT / "docs" / "planner.md") if block.language == "toml")
