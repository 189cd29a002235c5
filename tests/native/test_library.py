# SPDX-License-Identifier: MIT
"""The foreign libraries: their versions, their log, and the refusal of others than this was built for."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from native import LibraryMismatchError, LoadFailedError, Model, library, versions
from tests.models import write_model

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The wire is checked once per process; these tests check it again, and leave it as it was."""
    library.wire.cache_clear()
    yield
    library.wire.cache_clear()


def test_versions_name_all_that_workers_must_agree_on() -> None:
    running = versions()
    assert running.llama_cpp_python == library.BUILT_FOR
    assert running.llama_cpp
    assert "(" in running.ggml
    assert versions() is running


@pytest.mark.usefixtures("unchecked")
def test_a_wire_older_than_its_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / library._wire_path().name
    shutil.copy(library._wire_path(), old)
    os.utime(old, (0, 0))
    monkeypatch.setenv("CARAVAN_WIRE_LIBRARY", str(old))
    with pytest.raises(LibraryMismatchError, match=r"older than its sources.*run scripts/setup"):
        library.wire()


@pytest.mark.usefixtures("unchecked")
def test_another_llama_cpp_python_is_refused_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llama_cpp.__version__", "0.9.9")
    with pytest.raises(LibraryMismatchError, match=r"0\.9\.9 is installed.*pip install llama-cpp-python==") as caught:
        library.wire()
    assert library.BUILT_FOR in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_a_ggml_of_another_layout_is_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wire compares the size of the running ggml's tensors with its own declaration."""
    other = ctypes.CFUNCTYPE(ctypes.c_size_t)(lambda: 400)
    addresses = library._address

    def with_another_tensor(of: ctypes.CDLL, name: str) -> int:
        if name == "ggml_tensor_overhead":
            return ctypes.cast(other, ctypes.c_void_p).value or 0
        return addresses(of, name)

    monkeypatch.setattr(library, "_address", with_another_tensor)
    with pytest.raises(LibraryMismatchError, match="ggml tensors of 400 bytes with their header, built for"):
        library.wire()


@pytest.mark.usefixtures("unchecked")
def test_a_function_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_HOST_FUNCTIONS", (*library._HOST_FUNCTIONS, "ggml_no_such_function"))
    with pytest.raises(LibraryMismatchError, match=r"has no ggml_no_such_function: install llama-cpp-python=="):
        library.wire()


@pytest.mark.usefixtures("unchecked")
def test_a_wire_that_is_not_built_is_told_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CARAVAN_WIRE_LIBRARY", str(tmp_path / "libcaravan_wire.so"))
    with pytest.raises(LibraryMismatchError, match="is not built: run scripts/setup"):
        library.wire()


def test_ggml_is_the_one_that_llama_cpp_uses() -> None:
    """A wheel has every library as several files; a second copy of one would have a state of its own."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    command = "import native; print(open('/proc/self/maps').read())"
    output = subprocess.run([sys.executable, "-c", command], cwd=_ROOT, capture_output=True, text=True, check=True)
    loaded = {line.split()[-1] for line in output.stdout.splitlines() if "libggml-base" in line}
    assert len(loaded) == 1


def test_llama_cpps_log_goes_to_pythons_logging_and_nowhere_else(
    tiny: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, logger="native.llama_cpp"), Model.load(tiny):
        pass
    assert any("llama_model_loader" in record.message for record in caplog.records)
    assert all(record.levelno == logging.DEBUG for record in caplog.records if "loaded meta data" in record.message)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_an_error_of_llama_cpp_is_logged_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_model(tmp_path / "model.gguf", "llama")
    path.write_bytes(path.read_bytes().replace(b"output_norm", b"output_xxxx"))
    with pytest.raises(LoadFailedError):
        Model.load(path)
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_importing_native_says_nothing() -> None:
    command = [sys.executable, "-c", "import native; native.devices()"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
