# SPDX-License-Identifier: MIT
"""A worker whose llama.cpp aborts in a frame is started again by its supervisor, and the coordinator's events say why
it had ended: when, how, in which frame, and with which words."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from coordinator import LineChange, LineEvent, Mesh
from protos.slate import Activity
from tests.line.aborting_worker import ASSERTION
from tests.ports import own_port

_ROOT = Path(__file__).parents[2]
_PROMPT = "Once upon a time there was a llama"


@contextlib.contextmanager
def _supervised(due: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Its address, which it has again when it was started again."""
    command = [sys.executable, "-m", "tests.line.aborting_worker", str(due), "--json", "--no-mdns", "--threads", "1"]
    command += ["--name", "cellar", "--listen", f"127.0.0.1:{own_port()}", "--device", "CPU", "--insecure"]
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["address"], process
        finally:
            process.terminate()


def test_an_abort_in_a_frame_is_told_once_with_the_frame_and_the_reason(tmp_path: Path) -> None:
    due, events = tmp_path / "due", list[LineEvent]()
    options = {"discover": False, "context": 512, "batch": 64, "rejoin": False, "on_event": events.append}
    with _supervised(due) as (address, process), Mesh.open("demo", workers=[address], **options) as mesh:  # type: ignore[arg-type]
        assert mesh.generate(_PROMPT, max_tokens=2).wait().usage.completion_tokens == 2
        due.touch()
        before_s = time.time()
        generation = mesh.generate(_PROMPT, max_tokens=3, cache_prompt=False).wait()
        assert generation.usage.completion_tokens == 3
        changes = [event.change for event in events]
        assert (changes[0], changes[-1]) == (LineChange.LOST, LineChange.RESUMED)
        (told,) = [event for event in events if event.change is LineChange.ENDED]
        end = told.end
        assert end is not None
        assert end.doing is not None
        n_prompt, n_layer = generation.usage.prompt_tokens, mesh.plan.demand.n_layer
        assert (told.worker, end.signal_name) == ("cellar", "SIGABRT")
        assert before_s - 1 <= end.ended_s <= time.time()
        doing = end.doing
        assert (doing.activity, doing.n_tokens, doing.n_sequences) == (Activity.COMPUTING, n_prompt, 1)
        assert (doing.is_prefill, doing.epoch, doing.layer_start, doing.layer_end) == (True, 1, 0, n_layer)
        assert f"/src/ggml.c:77: {ASSERTION}" in end.log_tail.split("\n")
        assert re.fullmatch(
            rf"worker cellar ended at \d\d:\d\d:\d\d by an abort \(SIGABRT\) while computing {n_prompt} tokens of"
            rf" 1 sequence \(prefill\) with layers 0 to {n_layer - 1}; its last words: "
            + re.escape(f"/src/ggml.c:77: {ASSERTION}"),
            told.message,
        )
        assert process.stderr is not None
        assert ASSERTION in process.stderr.readline()  # the terminal has it as before
