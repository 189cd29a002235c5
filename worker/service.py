# SPDX-License-Identifier: MIT
"""`caravan worker --install-service`: has the system start this machine's workers at every login, with the options that
were typed. Writes one file of this user's own, and says what to type to use it; nothing is started and nothing needs
more rights.

A systemd user unit on Linux, a launchd agent on macOS, a task for the task scheduler on Windows.
"""

import os
import plistlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from protos.options import TABLE_VARIABLE
from worker.errors import ServiceError

_DESCRIPTION = "Caravan worker: lends this machine's devices to large language models"
_UNIT = "caravan-worker.service"
_AGENT = "caravan-worker"
_TASK = "caravan-worker"
# The command `caravan` itself, wherever it was installed, which reads the configuration file anew at each start.
_PROGRAM = (sys.executable, "-m", "coordinator.cli", "worker")
# It starts workers that die itself; this is for the supervisor, which has no reason to.
_RESTART_S = 10
# Wrong options stay wrong.
_USAGE_EXIT_CODE = 2
_TASK_NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"


@dataclass(frozen=True, slots=True)
class Service:
    """A file for the system: where, what, and sentences about what to do with it."""

    path: Path
    content: bytes
    advice: str

    def install(self) -> None:
        """Writes it, for this user's eyes only: options may say where models are.

        Raises:
            ServiceError: it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            self.path.write_bytes(self.content)
        except OSError as error:
            raise ServiceError(f"{self.path} cannot be written ({error.strerror or error}): mend its rights") from error


def service_of(arguments: Sequence[str], platform: str = sys.platform) -> Service:
    """What starts `caravan worker` with these arguments on that system, with the folders that this process's variables
    name.

    Args:
        platform: as `sys.platform` has it.
    """
    command = [*_PROGRAM, *arguments]
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("CARAVAN_") and name != TABLE_VARIABLE
    }
    if platform == "darwin":
        return _launchd_agent(command, variables)
    if platform == "win32":
        return _windows_task(command, variables)
    return _systemd_unit(command, variables)


def _systemd_unit(command: Sequence[str], variables: Mapping[str, str]) -> Service:
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    lines = [
        "[Unit]",
        f"Description={_DESCRIPTION}",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_systemd_word, command))}",
        # Where it was typed, for paths among its options; if that is gone, it starts all the same.
        f"WorkingDirectory=-{str(Path.cwd()).replace('%', '%%')}",
        *(f"Environment={_systemd_word(f'{name}={value}', is_command=False)}" for name, value in variables.items()),
        "Restart=on-failure",
        f"RestartSec={_RESTART_S}",
        f"RestartPreventExitStatus={_USAGE_EXIT_CODE}",
        # The supervisor ends its workers itself.
        "KillMode=mixed",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    path = folder / _UNIT
    advice = (
        f"now, and at every login:      systemctl --user daemon-reload && systemctl --user enable --now {_UNIT}\n"
        "before anybody has logged in: loginctl enable-linger\n"
        f"what it says:                 journalctl --user -u {_UNIT}\n"
        f"no more:                      systemctl --user disable --now {_UNIT} && rm {shlex.quote(str(path))}"
    )
    return Service(path, "\n".join(lines).encode(), advice)


def _systemd_word(word: str, *, is_command: bool = True) -> str:
    """As systemd.syntax(7) and systemd.service(5) have it: what they would replace is doubled."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped.replace("$", "$$") if is_command else escaped}"'


def _launchd_agent(command: Sequence[str], variables: Mapping[str, str]) -> Service:
    path = Path.home() / "Library" / "LaunchAgents" / f"{_AGENT}.plist"
    log = Path.home() / "Library" / "Logs" / f"{_AGENT}.log"
    content = {
        "Label": _AGENT,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(variables),
        "WorkingDirectory": str(Path.cwd()),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": _RESTART_S,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
    quoted = shlex.quote(str(path))
    advice = (
        f"now, and at every login: launchctl bootstrap gui/$(id -u) {quoted}\n"
        f"what it says:            tail -f {shlex.quote(str(log))}\n"
        f"no more:                 launchctl bootout gui/$(id -u)/{_AGENT}; rm {quoted}"
    )
    return Service(path, plistlib.dumps(content), advice)


def _windows_task(command: Sequence[str], variables: Mapping[str, str]) -> Service:
    """A task has no variables of its own, so a shell sets them."""
    folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "caravan"
    run = subprocess.list2cmdline(command)
    settings = "".join(f'set "{name}={value}" && ' for name, value in variables.items())
    task = ElementTree.Element("Task", version="1.2", xmlns=_TASK_NAMESPACE)
    _child(_child(task, "RegistrationInfo"), "Description", _DESCRIPTION)
    _child(_child(_child(task, "Triggers"), "LogonTrigger"), "Enabled", "true")
    options = _child(task, "Settings")
    restart = _child(options, "RestartOnFailure")
    _child(restart, "Interval", "PT1M")
    _child(restart, "Count", "999")
    _child(options, "DisallowStartIfOnBatteries", "false")
    _child(options, "ExecutionTimeLimit", "PT0S")
    execute = _child(_child(task, "Actions"), "Exec")
    _child(execute, "Command", "cmd.exe")
    _child(execute, "Arguments", f'/d /s /c "{settings}{run}"')
    _child(execute, "WorkingDirectory", str(Path.cwd()))
    path = folder / f"{_TASK}.xml"
    advice = (
        f'at every login: schtasks /Create /TN {_TASK} /XML "{path}"\n'
        f"now:            schtasks /Run /TN {_TASK}\n"
        f"no more:        schtasks /Delete /TN {_TASK}"
    )
    text = '<?xml version="1.0" encoding="UTF-16"?>\n' + ElementTree.tostring(task, encoding="unicode")
    return Service(path, text.encode("utf-16"), advice)


def _child(parent: ElementTree.Element, name: str, text: str | None = None) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name)
    element.text = text
    return element
