# SPDX-License-Identifier: MIT
"""The command line as a person meets it: a process of its own, what it printed, how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from coordinator.cli.exits import exit_code_of, sentence_of
from coordinator.cli.root import root
from coordinator.cli.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEMO_MODEL = ROOT / "coordinator" / "models" / "demo.gguf"
ALONE = ("--discovery-timeout", "0")
"""No looking around: a test must not meet the workers of another."""

_TIMEOUT_S = 60
_END_S = 20.0
"""How long what a command started may take to end after it."""


def command_line(*args: str | Path) -> list[str]:
    """`caravan` with these arguments, from this checkout."""
    return [sys.executable, "-m", "coordinator.cli", *map(str, args)]


def environment(**extra: str) -> dict[str, str]:
    """Ours without what could steer `caravan` or its colours, plus `extra`; the tests' own folders stay."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CARAVAN_", "FORCE_"))}
    kept |= {
        name: os.environ[name] for name in ("CARAVAN_CACHE", "CARAVAN_CONFIG", "CARAVAN_IDENTITY") if name in os.environ
    }
    return kept | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | extra


def caravan(*args: str | Path, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs `caravan` to its end; `extra` goes into its environment."""
    return subprocess.run(
        command_line(*args),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_TIMEOUT_S,
        check=False,
        env=environment(**extra),
    )


def caravan_here(*args: str | Path, stdin: str = "", **extra: str) -> subprocess.CompletedProcess[str]:
    """The same within this process, which is quicker, for commands that start nothing."""
    ours = environment(**extra)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CARAVAN_")]:
            patch.delenv(name)
        for name, value in ours.items():
            patch.setenv(name, value)
        runner = CliRunner()
        ended = runner.invoke(root, [*map(str, args)], input=stdin, obj=Settings(), standalone_mode=False)
    code, said = ended.return_value, ended.stderr
    if ended.exception is not None:
        assert isinstance(ended.exception, Exception)
        sentence = sentence_of(ended.exception, [*map(str, args)])
        assert sentence is not None, ended.exception
        code, said = exit_code_of(ended.exception), f"{said}caravan: {sentence}\n"
    return subprocess.CompletedProcess(args, int(code or 0), ended.stdout, said)


@contextlib.contextmanager
def started(*args: str | Path, **extra: str) -> Iterator[subprocess.Popen[str]]:
    """A running `caravan`, in a process group of its own as in a terminal; killed at the end if it still runs."""
    process = subprocess.Popen(
        command_line(*args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env=environment(**extra),
    )
    try:
        yield process
    finally:
        family = family_of(process)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def served_url(process: subprocess.Popen[str]) -> str:
    """`http://HOST:PORT` of a `caravan serve`, once it says that it is ready."""
    assert process.stderr is not None
    told: list[str] = []
    for line in process.stderr:
        told.append(line)
        if ready := re.search(r"ready on (http://\S+)/v1$", line):
            return ready.group(1)
    raise AssertionError("caravan serve ended: " + "".join(told))


def press_ctrl_c(process: subprocess.Popen[str]) -> None:
    """As a terminal does it: SIGINT to the whole process group."""
    os.killpg(process.pid, signal.SIGINT)


def family_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and all it started that still runs."""
    try:
        parent = psutil.Process(process.pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def all_end(family: list[psutil.Process]) -> bool:
    """Whether all of them are gone within the time that is theirs."""
    _, alive = psutil.wait_procs(family, timeout=_END_S)
    return not alive


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Looks again and again until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)
