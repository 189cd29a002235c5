# SPDX-License-Identifier: MIT
"""`--install-service`: what is written for each system starts a worker, with what was typed but for secrets."""

import configparser
import json
import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from worker.errors import ServiceError
from worker.service import service_of

_WORKER = [sys.executable, "-m", "coordinator.cli", "worker"]
_NAME = 'a "shed" of 50% $HOME \\ more'
_ARGUMENTS = ["--device", "CPU", "--name", _NAME]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of its own."""
    for name in [name for name in os.environ if name.startswith("CARAVAN_")]:
        monkeypatch.delenv(name)
    for name in ("XDG_CONFIG_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CARAVAN_CACHE", f"{tmp_path}/a cache of 100%")
    return tmp_path


def _unit(content: str) -> configparser.SectionProxy:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(content)
    return unit["Service"]


def _words(line: str) -> list[str]:
    """As systemd.syntax(7) reads them."""
    words = json.loads("[" + line.replace('" "', '","') + "]")
    return [word.replace("$$", "$").replace("%%", "%") for word in words]


def test_a_systemd_unit_has_every_word_and_the_folders(home: Path) -> None:
    service = service_of(_ARGUMENTS, "linux")
    assert service.path == home / ".config/systemd/user/caravan-worker.service"
    unit = _unit(service.content.decode())
    assert _words(unit["ExecStart"]) == [*_WORKER, *_ARGUMENTS]
    assert _words(unit["Environment"]) == [f"CARAVAN_CACHE={home}/a cache of 100%"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_unit() -> None:
    service = service_of(_ARGUMENTS, "linux")
    service.install()
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--user", service.path], capture_output=True, text=True, check=False
    )
    assert "caravan-worker" not in checked.stderr


def test_a_launchd_agent_has_every_word_and_the_folders(home: Path) -> None:
    service = service_of(_ARGUMENTS, "darwin")
    assert service.path == home / "Library/LaunchAgents/caravan-worker.plist"
    agent = plistlib.loads(service.content)
    assert agent["ProgramArguments"] == [*_WORKER, *_ARGUMENTS]
    assert agent["EnvironmentVariables"] == {"CARAVAN_CACHE": f"{home}/a cache of 100%"}
    assert agent["KeepAlive"] == {"SuccessfulExit": False}


def test_a_windows_task_runs_the_command_at_logon(home: Path) -> None:
    service = service_of(["--name", "shed"], "win32")
    task = ElementTree.fromstring(service.content.decode("utf-16"))
    space = "{http://schemas.microsoft.com/windows/2004/02/mit/task}"
    run = task.findtext(f"{space}Actions/{space}Exec/{space}Arguments")
    assert run is not None
    assert run.startswith(f'/d /s /c "set "CARAVAN_CACHE={home}/a cache of 100%" && ')
    assert run.endswith(f'{subprocess.list2cmdline([*_WORKER, "--name", "shed"])}"')
    assert task.find(f"{space}Triggers/{space}LogonTrigger") is not None


def test_what_is_installed_starts_a_worker_and_knows_no_secret(home: Path) -> None:
    """By the command's own line: the join code makes this machine a member and is not written down."""
    identity = {**os.environ, "CARAVAN_IDENTITY": str(home / "identity")}
    made = subprocess.run([*_WORKER[:3], "cluster", "create"], env=identity, capture_output=True, text=True, check=True)
    code = next(word for word in (made.stdout + made.stderr).split() if word.count("-") > 3 and word.isupper())
    joining = {**os.environ, "CARAVAN_IDENTITY": str(home / "joined")}
    arguments = ["--join", code, "--device", "CPU", "--install-service", "--no-mdns", "--json"]
    installed = subprocess.run([*_WORKER, *arguments], env=joining, capture_output=True, text=True, check=True)
    path = home / ".config/systemd/user/caravan-worker.service"
    assert f"systemctl --user enable --now {path.name}" in installed.stdout
    content = path.read_text()
    assert code not in content
    assert path.stat().st_mode & 0o077 == 0
    unit = _unit(content)
    command = _words(unit["ExecStart"])
    assert command == [*_WORKER, "--device", "CPU", "--no-mdns", "--json"]
    with subprocess.Popen(command, env=joining, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        ready = json.loads(worker.stdout.readline())
        worker.terminate()
    assert ready["device"] == "CPU"


def test_a_folder_that_cannot_be_written_is_named(home: Path) -> None:
    (home / ".config").write_text("a file")
    service = service_of([], "linux")
    with pytest.raises(ServiceError, match=r"caravan-worker\.service cannot be written"):
        service.install()
