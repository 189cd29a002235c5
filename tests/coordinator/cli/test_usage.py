# SPDX-License-Identifier: MIT
"""Wrong usage, help, and environment variables: before anything is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.coordinator.caravan_command import ALONE, DEMO_MODEL, caravan, caravan_here
from tests.ports import nobodys_address

_COMMANDS = (
    *("bench", "cache", "chat", "cluster", "completion", "demo", "doctor", "keys", "nodes", "plan", "run", "serve"),
    *("top", "verify", "worker"),
)


def test_help_names_every_command_and_a_line_to_paste() -> None:
    shown = caravan("--help")
    assert shown.returncode == 0
    assert all(f"  {name}" in shown.stdout for name in _COMMANDS)
    assert "caravan demo" in shown.stdout


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_of_a_command_holds_a_line_to_paste(command: str) -> None:
    # Two of them become another program.
    shown = caravan(command, "--help") if command in ("cache", "worker") else caravan_here(command, "--help")
    assert shown.returncode == 0
    assert f"caravan {command} " in shown.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("walk",), "No such command 'walk'"),
        (("run", "demo"), "Missing argument 'PROMPT'"),
        (("run", "demo", "hello", "--warmth", "1"), "No such option"),
        (("serve", "demo", "--port", "8080"), "there is no --port: here it is --listen HOST:PORT"),
        (("serve", "demo", "-ngl", "99"), "there is no -ngl: here it is --gpu-layers "),
        (("run", "-m", "demo", "-p", "hello"), "there is no -m: MODEL is given without a flag"),
        (
            ("plan", "demo", "--n-cpu-moe=4"),
            "there is no --n-cpu-moe: where experts and cards go is said where the worker",
        ),
        (("run", "demo", "hello", "--temperature", "hot"), "'hot' is not a valid float"),
        (("run", "demo", "hello", "--worker", "attic"), "'attic' is not HOST:PORT"),
        (("run", "demo", "hello", "--layers", "0-4-8"), "'0-4-8' is not a list of layer ranges"),
        (("run", "demo", "hello", "--gpu-layers", "-1"), "-1 is not in the range x>=0"),
        (("run", "demo", "hello", "--kv-type", "q9"), "'q9' is not one of 'f16'"),
        (("run", "demo", "hello", "--system", "be brief"), "--system needs --chat"),
        (("run", "demo", "hello", "--grammar-file", "nowhere.gbnf"), "'nowhere.gbnf' does not exist"),
        (("serve", "demo", "--listen", "8080"), "'8080' is not HOST:PORT"),
        (("serve", "demo", "--cors", "*"), "add --require-key"),
        (("serve", "demo", "--cors", "example.org"), "is no web page's origin"),
        (("serve", "demo", "--insecure", "--require-key"), "leave it out, or the keys"),
    ],
)
def test_wrong_usage_is_told_in_one_sentence(args: tuple[str, ...], sentence: str) -> None:
    ended = caravan_here(*args)
    assert (ended.returncode, ended.stdout) == (2, "")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("caravan: ")
    assert sentence in last


def test_every_option_has_an_environment_variable() -> None:
    ended = caravan_here("run", "demo", "hello", CARAVAN_RUN_TEMPERATURE="hot")
    assert ended.returncode == 2
    assert "CARAVAN_RUN_TEMPERATURE" in caravan_here("run", "--help").stdout


def _not_a_model(folder: Path) -> Path:
    path = folder / "shopping.gguf"
    path.write_text("carrots, hay, a new lamp\n" * 50)
    return path


def _truncated(folder: Path) -> Path:
    path = folder / "half.gguf"
    path.write_bytes(DEMO_MODEL.read_bytes()[: DEMO_MODEL.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    "make", [_not_a_model, _truncated, lambda folder: folder / "nowhere.gguf", lambda folder: folder]
)
def test_a_path_to_no_model_is_told_by_its_name(tmp_path: Path, make: object) -> None:
    assert callable(make)
    path = make(tmp_path)
    ended = caravan_here("run", path, "hello", *ALONE)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert str(path) in ended.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    ended = caravan("run", tmp_path / "nowhere.gguf", "hello", "--debug", *ALONE)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_a_port_in_use_is_told_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = caravan_here("serve", "demo", "--listen", f"127.0.0.1:{port}", *ALONE)
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == [
        f"caravan: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --listen"
    ]


def test_a_worker_that_is_not_there_is_told_by_its_address() -> None:
    with nobodys_address() as address:
        ended = caravan_here("run", "demo", "hello", "--worker", address, *ALONE)
    assert ended.returncode in (1, 3)
    assert address in ended.stderr
    assert ended.stdout == ""
