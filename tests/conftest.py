# SPDX-License-Identifier: MIT
"""What holds for every test: nothing is left behind; what a machine cannot run is skipped with a reason."""

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

# Machines are shared: what is slow now and then is no failure.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

# What a test started may take this long to end after it returned.
_GRACE_S = 20.0


# Variables that move a user's folders, or change what a command does or whom it asks; ours for the tests alone stay.
_STEERING = re.compile(
    r"XDG_(CACHE|CONFIG|DATA|STATE)_HOME$|HF_|HUGGING_FACE_|LLAMA_CACHE$|OLLAMA_|.*_PROXY$|CARAVAN_(?!TEST_|WIRE_LIBRARY$)",
    re.IGNORECASE,
)

# Where `ip` and `tc` are, which not every user has among theirs.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

# These hear each other's workers, by multicast.
_MULTICAST = {
    "tests/line/test_finding.py",
    "tests/line/test_joining.py",
    "tests/security/test_rogues.py",
    "tests/worker/test_announce.py",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # Where pytest-xdist spreads tests over processes: by files, as fixtures are.
        file = item.path.relative_to(item.config.rootpath).as_posix()
        item.add_marker(pytest.mark.xdist_group("multicast" if file in _MULTICAST else file))
        if item.get_closest_marker("netns") and not _has_network_namespaces():
            item.add_marker(pytest.mark.skip(reason="this user may not make network namespaces here"))
        if item.get_closest_marker("gpu") and not _gpus():
            item.add_marker(pytest.mark.skip(reason="this llama.cpp build sees no GPU"))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what tests measure and write out of the user's home, and the user's own configuration, cluster, models,
    tokens and proxies out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        # It says in which checkouts git may be used.
        patch.setenv("GIT_CONFIG_GLOBAL", os.environ.get("GIT_CONFIG_GLOBAL", str(Path.home() / ".gitconfig")))
        for name in [name for name in os.environ if _STEERING.match(name)]:
            patch.delenv(name)
        patch.setenv("PATH", _PATH)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("CARAVAN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("CARAVAN_CONFIG", os.devnull)
        patch.setenv("CARAVAN_IDENTITY", str(tmp_path_factory.mktemp("identity")))
        yield


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """A shell that runs this in the background has it ignore SIGINT, and so all that it starts: many tests send one."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def kept_bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where Python is told to write no bytecode, the hundreds of processes that tests start would each compile all of
    ours anew, a fifth of their start: they keep it in a folder of the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.dont_write_bytecode:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.mktemp("bytecode")))
        yield


@pytest.fixture(scope="session")
def cards() -> tuple[str, str]:
    """The first two GPUs."""
    names = _gpus()
    if len(names) < 2:
        pytest.skip("this llama.cpp build sees one GPU; GGML_VK_VISIBLE_DEVICES=0,0 shows it twice")
    return names[0], names[1]


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fails a test that leaves a process or a thread behind that would outlive it."""
    threads_before = set(threading.enumerate())
    children_before = set(psutil.Process().children(recursive=True))
    yield
    deadline = time.monotonic() + _GRACE_S
    while left := _left_since(threads_before, children_before):
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(left)}")
        time.sleep(0.02)


def _left_since(threads: set[threading.Thread], children: set[psutil.Process]) -> list[str]:
    new_threads = [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon]
    new_children = [child for child in psutil.Process().children(recursive=True) if child not in children]
    return [f"thread {thread.name}" for thread in new_threads] + [f"process {child}" for child in new_children]


@functools.cache
def _has_network_namespaces() -> bool:
    """Whether `unshare` may make one, as root or in a user namespace."""
    if any(shutil.which(program, path=_PATH) is None for program in ("unshare", "ip", "tc")):
        return False
    as_root = ["unshare", "--net", "true"]
    as_user = ["unshare", "--user", "--map-root-user", "--net", "true"]
    return any(
        subprocess.run(attempt, capture_output=True, check=False).returncode == 0 for attempt in (as_root, as_user)
    )


@functools.cache
def _gpus() -> list[str]:
    """Names of those that this llama.cpp build sees."""
    from native import DeviceKind, devices

    return [device.name for device in devices() if device.kind is DeviceKind.GPU]
