# SPDX-License-Identifier: MIT
"""The worker as a person meets it: its command line, its one line of output, its exit codes, its end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from native import devices
from protos.options import OptionTable, OptionTableError
from tests.worker.conftest import StartWorker
from tests.worker.driver import ROOT, FedStream, WorkerProcess, context_params, load_request, stage_spec, worker_command
from worker.cli import command
from worker.errors import NotLoopbackError
from worker.listening import Endpoint, check_allowed

EXIT_TIMEOUT_S = 60


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A worker that is expected to end by itself."""
    return subprocess.run(
        worker_command(*arguments),
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=EXIT_TIMEOUT_S,
        check=False,
    )


def assert_one_sentence(result: subprocess.CompletedProcess[str], code: int) -> str:
    """It ended with that code and one line on stderr, which is returned."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_help_holds_a_line_to_paste() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "\n    caravan worker  " in result.stdout
    assert result.stdout.startswith("Usage: caravan worker")


def test_the_ready_line_names_everything(start_worker: StartWorker) -> None:
    process = subprocess.Popen(
        worker_command("--no-mdns", "--name", "desk"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    rest, complaints = process.communicate(timeout=EXIT_TIMEOUT_S)
    pattern = r"worker desk ready on 127\.0\.0\.1:\d+, device CPU \(.+\), \d.* free of \d.*, llama\.cpp \S+\n"
    assert re.fullmatch(pattern, line)
    assert (rest, complaints, process.returncode) == ("", "", 0)


def test_the_json_line_is_for_programs(start_worker: StartWorker) -> None:
    worker = start_worker("--name", "desk")
    assert worker.ready["name"] == "desk"
    assert worker.ready["device"] == "CPU"
    assert worker.ready["pid"] == worker.process.pid
    assert 0 < worker.ready["free_bytes"] <= worker.ready["total_bytes"]
    assert set(worker.ready) == {
        "name", "address", "device", "free_bytes", "total_bytes", "llama_cpp", "pid"
    }  # fmt: skip


def test_options_can_come_from_the_environment(start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAVAN_WORKER_NAME", "from-outside")
    assert start_worker().name == "from-outside"


def test_a_table_of_the_configuration_file_gives_way_to_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = [tmp_path / "gguf files", tmp_path / "more"]
    for folder in folders:
        folder.mkdir()
    values = {"models": [str(folders[0])], "memory": "1GiB", "threads": 3, "no-mdns": True}
    defaults = OptionTable("c.toml: [worker]", values).defaults_for(command, "caravan worker")
    params = command.make_context("", [], default_map=defaults).params
    assert (params["model_folders"], params["max_bytes"]) == ((folders[0],), 1 << 30)
    assert (params["n_threads"], params["no_mdns"]) == (3, True)
    # Several folders in a variable are separated as in PATH, so that they may have spaces.
    monkeypatch.setenv("CARAVAN_WORKER_MODELS", os.pathsep.join(map(str, folders)))
    monkeypatch.setenv("CARAVAN_WORKER_MEMORY", "2GiB")
    params = command.make_context("", ["--threads", "4"], default_map=defaults).params
    assert (params["model_folders"], params["max_bytes"], params["n_threads"]) == (tuple(folders), 2 << 30, 4)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"memry": "1GiB"}, 'memry = "1GiB": caravan worker has no option of that name: is it memory?'),
        ({"memory": "much"}, "memory = \"much\": 'much' is no size, like 20GiB"),
        ({"listen": "desk"}, "listen = \"desk\": 'desk' is no HOST:PORT"),
        ({"insecure": True}, "insecure = true: --insecure must be typed at each start: take it out of the file"),
    ],
)
def test_what_cannot_be_in_that_table_is_told_by_its_file_and_name(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(OptionTableError) as refused:
        OptionTable("c.toml: [worker]", values).defaults_for(command, "caravan worker")
    assert refused.value.message.startswith(f"c.toml: [worker] {complaint}")


def test_a_wrong_table_ends_it_with_one_sentence() -> None:
    table = OptionTable("c.toml: [worker]", {"threads": 0})
    complaint = assert_one_sentence(run("--no-mdns", CARAVAN_WORKER_TABLE=table.pack()), 2)
    assert complaint == "caravan worker: c.toml: [worker] threads = 0: 0 is not in the range x>=1\n"


def test_memory_and_reserve_bound_what_it_says_is_free(start_worker: StartWorker) -> None:
    ready = start_worker("--memory", "512MiB", "--reserve", "1MiB").ready
    assert (ready["free_bytes"], ready["total_bytes"]) == (512 << 20, 512 << 20)
    ready = start_worker("--reserve", "1000TiB").ready
    assert ready["free_bytes"] == 0 < ready["total_bytes"]


def test_the_default_name_is_the_host_and_the_device(start_worker: StartWorker) -> None:
    name = start_worker().name
    assert name.endswith("-CPU")
    assert re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z_-]*", name)


def test_an_unknown_device_lists_those_there_are() -> None:
    complaint = assert_one_sentence(run("--no-mdns", "--device", "CUDA7"), 1)
    assert "CUDA7" in complaint
    assert all(device.name in complaint for device in devices())


def test_a_port_in_use_is_one_sentence(start_worker: StartWorker) -> None:
    address = start_worker().address
    complaint = assert_one_sentence(run("--no-mdns", "--listen", address), 3)
    assert address in complaint
    assert "in use" in complaint


def test_a_port_that_another_program_has_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert_one_sentence(run("--no-mdns", "--listen", f"127.0.0.1:{port}"), 3)


def test_listening_beyond_this_machine_without_a_cluster_wants_insecure_typed_out() -> None:
    beyond = ("--no-mdns", "--listen", "0.0.0.0:0", "--parent-pid", str(os.getpid()))
    complaint = assert_one_sentence(run(*beyond), 1)
    assert "--insecure" in complaint
    assert_one_sentence(run(*beyond, CARAVAN_WORKER_INSECURE="1"), 1)


def test_insecure_listens_on_every_interface(start_worker: StartWorker) -> None:
    worker = start_worker("--listen", "0.0.0.0:0", "--insecure")
    port = int(worker.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_is_allowed(host: str) -> None:
    check_allowed(Endpoint(host, 0), is_member=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "8.8.8.8", "fe80::1"])
def test_everything_else_is_not(host: str) -> None:
    with pytest.raises(NotLoopbackError):
        check_allowed(Endpoint(host, 0), is_member=False, insecure=False)
    check_allowed(Endpoint(host, 0), is_member=False, insecure=True)


def test_addresses_are_read_as_people_write_them() -> None:
    assert Endpoint.parse("127.0.0.1:80") == Endpoint("127.0.0.1", 80)
    assert Endpoint.parse("[::1]:80") == Endpoint("::1", 80)
    assert Endpoint.parse("[::1]:80").address() == "[::1]:80"
    assert Endpoint.parse(":80").is_wildcard
    for wrong in ("127.0.0.1", "::1:80", "host:port", "host:70000", "host:-1", ""):
        with pytest.raises(ValueError, match="is no HOST:PORT"):
            Endpoint.parse(wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--listen", "nonsense"),
        ("--threads", "0"),
        ("--memory", "much"),
        ("--reserve", "-1"),
        ("--models", "/no/such/folder"),
        ("--insec",),
        ("surplus",),
    ],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(command, ["--no-mdns", "--parent-pid", str(os.getpid()), *arguments])
    assert (ended.exit_code, ended.stdout) == (2, "")


def test_a_process_of_wrong_usage_exits_with_2() -> None:
    assert run("--no-mdns", "surplus").returncode == 2


def test_a_name_no_worker_may_have_is_refused() -> None:
    assert "cannot name a worker" in assert_one_sentence(run("--no-mdns", "--name", "my worker!"), 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_leaves_nothing(number: signal.Signals, model: Path) -> None:
    worker = WorkerProcess("--no-mdns")
    worker.load(load_request(stage_spec(model, 0, 2)))
    children = psutil.Process(worker.process.pid).children(recursive=True)
    worker.channel.close()
    worker.process.send_signal(number)
    worker.process.wait(EXIT_TIMEOUT_S)
    assert worker.stop() == (0, "")
    assert children == []
    port = int(worker.address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


@pytest.mark.skipif(sys.platform != "linux", reason="signals a thread of another process")
def test_a_signal_that_another_thread_gets_ends_it_too(start_worker: StartWorker) -> None:
    worker = start_worker()
    others = [thread.id for thread in psutil.Process(worker.process.pid).threads() if thread.id != worker.process.pid]
    # To Linux any thread's id will do, and that thread is the first it asks.
    os.kill(others[0], signal.SIGTERM)
    assert worker.process.wait(EXIT_TIMEOUT_S) == 0


def test_a_signal_lets_the_frame_that_is_computed_finish(start_worker: StartWorker, heavy_model: Path) -> None:
    worker = start_worker()
    context = context_params(n_batch=256, n_ubatch=256, n_ctx_seq=512)
    worker.load(load_request(stage_spec(heavy_model, 0, 4, context)))
    stream = FedStream(worker, worker)
    stream.send(stream.frame([3] * 256, range(256), [0] * 256))
    while worker.health().n_frames == 0 and worker.health().state != 4:
        time.sleep(0.01)
    worker.process.send_signal(signal.SIGTERM)
    assert stream.result().frame_number == 1
    error = stream.feed.exception(timeout=EXIT_TIMEOUT_S)
    assert "shutting down" in str(error)
    assert worker.process.wait(EXIT_TIMEOUT_S) == 0


def test_a_second_signal_forces(heavy_model: Path) -> None:
    worker = WorkerProcess("--no-mdns", "--threads", "1", "--verbose")
    context = context_params(n_batch=1024, n_ubatch=1024, n_ctx_seq=1024)
    worker.load(load_request(stage_spec(heavy_model, 0, 4, context)))
    stream = FedStream(worker, worker)
    stream.send(stream.frame([3] * 1024, range(1024), [0] * 1024))
    while worker.health().state != 4:
        time.sleep(0.01)
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.stderr is not None
    assert any("stopping: SIGINT" in line for line in worker.process.stderr)
    # It would end with 0 when the frame is computed, some seconds later.
    worker.process.send_signal(signal.SIGINT)
    assert worker.process.wait(EXIT_TIMEOUT_S) == 1
    stream.cancel()
    worker.stop()


def test_it_goes_when_its_parent_has_gone() -> None:
    script = (
        "import subprocess, sys, time, os\n"
        f"child = subprocess.Popen({worker_command('--no-mdns', '--json')!r}"
        " + ['--parent-pid', str(os.getpid())], stdout=subprocess.PIPE, text=True)\n"
        "print(child.stdout.readline(), end='', flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = psutil.Process(json.loads(parent.stdout.readline())["pid"])
    parent.kill()
    parent.communicate(timeout=EXIT_TIMEOUT_S)
    worker.wait(EXIT_TIMEOUT_S)


def test_a_parent_that_is_gone_already_ends_it_at_once() -> None:
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    assert run("--no-mdns", "--parent-pid", str(finished.pid)).returncode == 0
