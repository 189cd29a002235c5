# SPDX-License-Identifier: MIT
"""The supervisor with real workers: it starts them, keeps them alive, and takes them along when it goes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from native import DeviceKind, devices
from tests.worker.driver import ROOT, worker_command

_TIMEOUT_S = 60


@contextlib.contextmanager
def supervised(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`caravan worker`, killed at the end if it still runs, and its workers with it."""
    command = worker_command("--no-mdns", "--threads", "1", "--json", *arguments)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.kill()
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()


def ready_line(process: "subprocess.Popen[str]") -> dict[str, object]:
    """The next worker that is ready."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.stderr and process.stderr.read()
    said: dict[str, object] = json.loads(line)
    return said


def pid_of(ready: dict[str, object]) -> int:
    """The worker's own."""
    assert isinstance(ready["pid"], int)
    return ready["pid"]


def test_a_worker_that_dies_starts_again_and_the_others_stay() -> None:
    with supervised("--device", "CPU", "--device", "CPU", "--name", "desk") as process:
        assert process.stderr is not None
        workers = {str(ready["name"]): ready for ready in (ready_line(process), ready_line(process))}
        assert sorted(workers) == ["desk-CPU", "desk-CPU-2"]
        os.kill(pid_of(workers["desk-CPU-2"]), signal.SIGSEGV)
        sentence = "caravan worker: desk-CPU-2 was ended by SIGSEGV; it starts again in 1 s\n"
        assert process.stderr.readline() == sentence
        again = ready_line(process)
        assert again["name"] == "desk-CPU-2"
        children = {child.pid for child in psutil.Process(process.pid).children()}
        assert children == {pid_of(workers["desk-CPU"]), pid_of(again)}
        process.terminate()
        assert process.wait(_TIMEOUT_S) == 0
        assert process.stderr.read() == ""
        assert not any(psutil.pid_exists(pid) for pid in children)


def test_when_one_cannot_start_none_does_and_its_sentence_is_the_only_one() -> None:
    with supervised("--device", "CPU", "--device", "CUDA7", "--device", "CUDA8") as process:
        output, complaints = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 1
    assert re.fullmatch(r"caravan worker: there is no device 'CUDA[78]' on this machine; .+\n", complaints)
    assert output.count("\n") <= 1


def test_a_second_ctrl_c_does_not_wait_for_a_worker_that_hangs() -> None:
    with supervised("--device", "CPU") as process:
        worker = psutil.Process(pid_of(ready_line(process)))
        worker.suspend()
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(_TIMEOUT_S) == 1
        assert not worker.is_running()


def test_workers_do_not_outlive_a_supervisor_that_is_killed() -> None:
    with supervised() as process:
        worker = psutil.Process(pid_of(ready_line(process)))
        process.kill()
        worker.wait(_TIMEOUT_S)


def test_a_worker_that_was_told_to_stop_is_not_started_again() -> None:
    with supervised("--device", "CPU") as process:
        os.kill(pid_of(ready_line(process)), signal.SIGTERM)
        output, complaints = process.communicate(timeout=_TIMEOUT_S)
        assert (process.returncode, output, complaints) == (0, "", "")


def test_nobody_who_reads_is_no_reason_to_stop() -> None:
    with supervised("--device", "CPU") as process:
        worker = psutil.Process(pid_of(ready_line(process)))
        assert process.stdout is not None
        process.stdout.close()
        worker.kill()
        started = time.monotonic()
        while not (children := psutil.Process(process.pid).children()) or children == [worker]:
            assert time.monotonic() - started < _TIMEOUT_S
            time.sleep(0.05)
        process.terminate()
        assert process.wait(_TIMEOUT_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks at what a process has mapped")
def test_the_supervisor_does_not_load_llama_cpp() -> None:
    with supervised() as process:
        ready_line(process)
        assert not re.search("llama|ggml", Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"))


@pytest.mark.gpu
def test_every_gpu_gets_a_worker_of_its_own() -> None:
    gpus = [device.name for device in devices() if device.kind is DeviceKind.GPU]
    with supervised() as process:
        ready = [ready_line(process) for _ in gpus]
        assert sorted(str(each["device"]) for each in ready) == sorted(gpus)
        process.terminate()
        assert process.wait(_TIMEOUT_S) == 0
