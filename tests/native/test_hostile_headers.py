# SPDX-License-Identifier: MIT
"""Headers that were made to break what reads them, or found by scripts/fuzz_headers: an error, or a layout, at once.

`hostile_headers/` holds one for each kind of lie. What begins with `refused-` ends in an error however it comes.
`hostile_models/` holds such as our reader takes, and at which llama.cpp would end the process, or never come to an end.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from native import ModelFileError, read_layout
from tests.models import split_model, write_model

_HOSTILE = sorted((Path(__file__).parent / "hostile_headers").iterdir())
_MODELS = sorted((Path(__file__).parent / "hostile_models").iterdir())
_ROOT = Path(__file__).parents[2]
_ALLOWANCE_BYTES = 8 << 20


def test_a_hostile_header_ends_in_a_sentence_at_once_and_in_little_memory(tiny: Path) -> None:
    command = [sys.executable, "-m", "tests.native.read_headers", *map(str, [tiny, *_HOSTILE])]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=150, check=False)
    good, *read = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"it ended at {_HOSTILE[len(read)].name}: {done.stderr[-1000:]}"
    assert set(good["outcomes"]) == {read_layout(tiny).identity}
    assert [entry["name"] for entry in read] == [path.stem for path in _HOSTILE]
    for entry in read:
        assert entry["seconds"] < 1, entry
        assert entry["grown_bytes"] < _ALLOWANCE_BYTES, entry
        if entry["name"].startswith("refused-"):
            assert all(outcome.startswith("refused: ") for outcome in entry["outcomes"]), entry
            assert all(len(outcome) < 1000 for outcome in entry["outcomes"]), entry


def test_what_would_end_or_hang_llama_cpp_is_a_refusal(tiny: Path) -> None:
    command = [sys.executable, "-m", "tests.native.load_headers", *map(str, [tiny, *_MODELS])]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=150, check=False)
    good, *refusals = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"it ended at {_MODELS[len(refusals)].name}: {done.stderr[-1000:]}"
    assert good == ["", "", ""]
    for path, said in zip(_MODELS, refusals, strict=True):
        asserted = [sentence for sentence in said if "GGML_ASSERT" in sentence]
        if path.stem.startswith("asserts-"):
            assert asserted, (path.stem, said)
            # Where in llama.cpp, and not where it was built.
            assert not any("/" in sentence for sentence in asserted), asserted
        elif path.stem.startswith("lacks-"):
            assert all("a tensor is missing" in sentence for sentence in said[1:]), (path.stem, said)
        else:
            assert "none of that byte alone" in said[0], (path.stem, said)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match="a device or a pipe, not a file"):
        read_layout(tmp_path / "model.gguf")


def test_a_part_that_says_its_number_otherwise_than_llama_cpp_reads_it_is_refused(tmp_path: Path) -> None:
    parts = split_model(write_model(tmp_path / "whole.gguf", "llama"), tmp_path / "split")
    data = parts[1].read_bytes()
    unsigned = b"split.no" + struct.pack("<IH", 2, 1)
    assert unsigned in data
    # Another number, and the right one as a signed one, at which llama.cpp aborts.
    for other in ((2, 2), (3, 1)):
        parts[1].write_bytes(data.replace(unsigned, b"split.no" + struct.pack("<IH", *other)))
        with pytest.raises(ModelFileError, match="this is not part 2 of a model in 3 files"):
            read_layout(parts[0])
