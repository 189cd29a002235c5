# SPDX-License-Identifier: MIT
"""The configuration file: who wins, what is refused and in which words, and that docs/config.md tells the truth."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from coordinator.cli.config import default_path
from coordinator.cli.exits import ExitCode
from coordinator.cli.options import LayersOption
from coordinator.cli.root import root
from coordinator.cli.settings import Settings
from native import LayerRange
from protos.options import OptionTableError, options_by_name
from tests.coordinator.caravan_command import ALONE, ROOT, caravan_here, started
from worker.cli import command as worker_command

_PAGE = ROOT / "docs" / "config.md"
_CONTEXT = click.Context(root)
_COMMANDS = root.list_commands(_CONTEXT)

Parse = Callable[..., dict[str, Any]]
"""What a command would be called with: the file's text, then the command's arguments."""


@pytest.fixture
def parsed(tmp_path: Path) -> Parse:
    def parse(text: str, *args: str) -> dict[str, Any]:
        path = tmp_path / "c.toml"
        path.write_text(text, encoding="utf-8")
        return _parsed(["--config", str(path)], *args)

    return parse


def _parsed(root_args: list[str], *args: str) -> dict[str, Any]:
    with root.make_context("caravan", [*root_args, *args], obj=Settings()) as ctx:
        name, command, rest = root.resolve_command(ctx, list(args))
        assert command is not None
        return command.make_context(name, rest, parent=ctx).params


# ---- who wins ----


def test_command_line_then_variable_then_table_then_top_then_default(
    parsed: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = "batch = 16\n[run]\nbatch = 32"
    run, serve = ("run", "demo", "hello"), ("serve", "demo")
    assert parsed("", *run)["batch"] == 512
    assert (parsed(both, *serve)["batch"], parsed(both, *run)["batch"]) == (16, 32)
    monkeypatch.setenv("CARAVAN_RUN_BATCH", "64")
    assert (parsed(both, *serve)["batch"], parsed(both, *run)["batch"]) == (16, 64)
    assert parsed(both, *run, "--batch", "128")["batch"] == 128


def test_lists_flags_and_ranges_are_read_as_the_command_line_reads_them(
    parsed: Parse, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
        stop = ["The end.", "Fin"]
        [caravan]
        worker = ["pc2:50200"]
        [run]
        chat = true
        layers = "attic=12-23"
        max_tokens = 7
        seed = "8"
        temperature = 1
    """
    params = parsed(text, "run", "demo", "hello")
    assert params["stop"] == ("The end.", "Fin")
    assert params["worker"] == ("pc2:50200",)
    assert params["chat"] is True
    assert params["layers"] == LayersOption(by_name={"attic": LayerRange(12, 24)})
    assert (params["max_tokens"], params["seed"], params["temperature"]) == (7, 8, 1.0)
    monkeypatch.setenv("CARAVAN_RUN_CHAT", "0")
    monkeypatch.setenv("CARAVAN_RUN_STOP", "a b")
    params = parsed(text, "run", "demo", "hello", "--worker", "pc3:1", "--layers", "0-3")
    assert (params["worker"], params["stop"], params["chat"]) == (("pc3:1",), ("a", "b"), False)
    assert params["layers"] == LayersOption(in_order=(LayerRange(0, 4),))


def test_the_file_is_the_one_named_else_the_variable_s_else_the_user_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("run", "demo", "hello")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("CARAVAN_CONFIG")
    if sys.platform == "linux":
        assert default_path() == tmp_path / "caravan" / "config.toml"
        assert _parsed([], *run)["batch"] == 512
        default_path().parent.mkdir()
        default_path().write_text("batch = 1")
        assert _parsed([], *run)["batch"] == 1
    for name, batch in (("variable", 2), ("typed", 3)):
        (tmp_path / name).write_text(f"batch = {batch}")
    monkeypatch.setenv("CARAVAN_CONFIG", str(tmp_path / "variable"))
    assert _parsed([], *run)["batch"] == 2
    assert _parsed(["--config", str(tmp_path / "typed")], *run)["batch"] == 3


def test_what_the_file_says_of_workers_is_not_about_an_inventory(tmp_path: Path) -> None:
    machines, config = tmp_path / "m.toml", tmp_path / "c.toml"
    machines.write_text('[[device]]\nname = "desk"\ncard = "RTX 3090"\n')
    config.write_text('worker = ["pc2:50200"]\nexclude = ["attic"]\nlayers = "attic=0-3"\ncontext = 64\n')
    args = ["--config", str(config), "plan", "demo", "--json", "--inventory", str(machines)]
    plan = json.loads(CliRunner().invoke(root, args, obj=Settings(), catch_exceptions=False).stdout)
    assert (plan["n_ctx"], [stage["worker"] for stage in plan["stages"]]) == (64, ["desk"])


# ---- what is refused ----


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "temprature = 0.5",
            ": temprature = 0.5: no command has an option of that name (is it temperature?); those of",
        ),
        (
            'reserve = "2GiB"',
            ': reserve = "2GiB": no command has an option of that name (is it server?); those of',
        ),
        (
            "[run]\ntemprature = 0.5",
            ": [run] temprature = 0.5: caravan run has no option of that name: is it temperatu",
        ),
        (
            "[run]\nqueue = 3",
            ": [run] queue = 3: caravan run has no option of that name: `caravan run --help` lists th",
        ),
        ("[rnu]\nbatch = 3", ": [rnu] is no command's table: is it [run]?"),
        ("[garden]", ": [garden] is no command's table: there are [bench], [cache], [chat], "),
        ("run = 3", ": run = 3: run is a command: write its options below [run]"),
        ("batch = 3\n[caravan]\nbatch = 4", ": [caravan] batch = 4: it is at the top of the file too"),
        ("max-tokens = 3\nmax_tokens = 4", ": max-tokens is there with - and with _: take one of them out"),
        ('batch = "many"', ": batch = \"many\": 'many' is not a valid integer"),
        ("batch = 1.5", ": batch = 1.5: '1.5' is not a valid integer"),
        ("batch = 0", ": batch = 0: 0 is not in the range 1<=x<=65536"),
        ("batch = true", ": batch = true: write one text or number, as after --batch on the command line"),
        ("batch = [1]", ": batch = [1]: write one text or number"),
        ("batch = 1979-05-27", ': batch = "1979-05-27": write one text or number'),
        ('flash-attention = "maybe"', ": flash-attention = \"maybe\": 'maybe' is not one of 'auto', 'on', 'off'"),
        ('layers = "0-4-8"', ": layers = \"0-4-8\": '0-4-8' is not a list of layer ranges, such as 0-11,12-23"),
        ('[run]\nchat = "yes"', ': [run] chat = "yes": write true or false, without quotes'),
        ('worker = "pc2:50200"', ': worker = "pc2:50200": write a list, worker = ["pc2:50200"]'),
        ('worker = ["pc2"]', ": worker = [\"pc2\"]: 'pc2' is not HOST:PORT, such as 192.168.1.20:50200"),
        ("[[worker]]\nname = 3", ': worker = [{"name": 3}]: write texts or numbers in a list, as after --worker'),
        ('[run]\ngrammar-file = "nowhere"', ": [run] grammar-file = \"nowhere\": File 'nowhere' does not exist"),
        ("insecure = true", ": insecure = true: --insecure must be typed at each start: take it out of the file"),
        ("batch = ", " is not TOML: Invalid value (at end of document); mend it there"),
        ("[" * 5000, " is not TOML: "),
        (
            'worker = ["a:1"]\n[worker]\n',
            " is not TOML: Cannot declare ('worker',) twice (at line 2, column 8); worker is an option and a command: ",
        ),
    ],
)
def test_what_cannot_be_is_told_with_file_name_value_and_what_is_expected(
    parsed: Parse, tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(OptionTableError) as refused:
        # The command line says otherwise, and yet the file is wrong.
        parsed(text, "run", "demo", "hello", "--batch", "8")
    assert refused.value.message.startswith(f"{tmp_path / 'c.toml'}{complaint[:2]}")
    assert complaint in refused.value.message
    assert "\n" not in refused.value.message


def test_what_one_command_has_at_the_top_is_fine_for_the_others(parsed: Parse) -> None:
    assert parsed("queue = 3", "run", "demo", "hello")["batch"] == 512
    assert parsed("queue = 3", "serve", "demo")["queue"] == 3


def test_help_is_to_be_had_with_a_wrong_file(tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("batch = many")
    args = ["--config", str(tmp_path / "wrong"), "run"]
    assert "--max-tokens" in CliRunner().invoke(root, [*args, "--help"], obj=Settings()).stdout
    assert CliRunner().invoke(root, [*args, "demo", "hello", "--", "-h"], obj=Settings()).exit_code == 2


def test_a_file_that_is_not_there_ends_the_command_with_one_sentence(tmp_path: Path) -> None:
    ended = caravan_here("--config", tmp_path / "nowhere", "run", "demo", "hello")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        f"caravan: {tmp_path / 'nowhere'} is not there: name a config file that is, with --config or CARAVAN_CONFIG"
    ]
    with pytest.raises(OptionTableError, match=r"cannot be read \(Is a directory\): mend that"):
        _parsed(["--config", str(tmp_path)], "nodes")


# ---- the worker, the doctor ----


def test_the_workers_table_reaches_its_program(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        'batch = 8\n[worker]\nname = "attic"\nreserve = "900TiB"\nno-mdns = true\njson = true\nthreads = 1\n'
        'listen = "127.0.0.1:0"\n'
    )
    with started("--config", config, "worker", CARAVAN_WORKER_NAME="cellar") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
    assert (ready["name"], ready["free_bytes"]) == ("cellar", 0)


def test_the_doctor_tells_the_file_and_all_that_is_wrong_in_it(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('temperature = "hot"\n[serve]\nqueue = -1\n')
    config.chmod(0o666)
    args = ["--config", str(config), "doctor", *ALONE]
    ended = CliRunner().invoke(root, args, obj=Settings(), standalone_mode=False, catch_exceptions=False)
    assert ended.return_value == ExitCode.USER_ERROR
    assert re.search(rf"^note +config +{re.escape(str(config))} can be written by anyone\n +chmod", ended.stdout)
    assert ended.stdout.count(f'{config}: temperature = "hot": ') == 1
    assert f"{config}: [serve] queue = -1: " in ended.stdout


# ---- the documents ----


def _every_option() -> Iterator[tuple[str, str, click.Option, click.Context]]:
    for name in _COMMANDS:
        command = worker_command if name == "worker" else root.get_command(_CONTEXT, name)
        assert command is not None
        for flag, option in options_by_name(command).items():
            yield name, flag, option, click.Context(command)


def test_help_tells_every_option_s_variable_which_is_called_like_its_flag() -> None:
    flags = set()
    for name, flag, option, context in _every_option():
        record = option.get_help_record(context)
        assert record is not None
        if flag not in ("insecure", "insecure-workers", "install-service", "join"):
            flags.add(f"{name} {flag}")
            assert f"[env var: CARAVAN_{name.upper()}_{flag.upper().replace('-', '_')}" in record[1], (name, flag)
        else:
            assert "env var" not in record[1]
    assert {"nodes json", "worker memory", "run debug", "serve max-stages"} <= flags


def test_the_example_in_the_document_holds(parsed: Parse, tmp_path: Path) -> None:
    folder = tmp_path / "gguf files"
    folder.mkdir()
    examples = re.findall(r"^```toml\n(.*?)^```", _PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        path = tmp_path / "c.toml"
        path.write_text(example.replace("/mnt/gguf files", str(folder)).replace("/mnt/more", str(tmp_path)))
        settings = Settings()
        with root.make_context("caravan", ["--config", str(path), "nodes"], obj=settings) as ctx:
            root.resolve_command(ctx, ["nodes"])
            assert settings.config is not None
            assert settings.config.faults(ctx) == []
            if "worker" not in settings.config.tables:
                continue
            defaults = settings.config.tables["worker"].defaults_for(worker_command, "caravan worker")
        assert worker_command.make_context("", [], default_map=defaults).params["model_folders"] == (folder, tmp_path)


def test_the_reference_in_the_document_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    reference = importlib.import_module("config_reference").reference()
    assert reference in _PAGE.read_text(encoding="utf-8"), "docs/config.md is stale: run scripts/config_reference"


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)} == set(ExitCode)
    assert all(f" {int(code)} " in (root.epilog or "") for code in ExitCode)
