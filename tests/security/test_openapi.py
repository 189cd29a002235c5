# SPDX-License-Identifier: MIT
"""Requests made up from the OpenAPI document, and against it: whatever comes, nothing is a fault inside."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.coordinator.caravan_command import ALONE, ROOT, served_url, started

_UNLOAD = "/v1/models/unload"
_SERVE = ("serve", "demo", "--listen", "127.0.0.1:0", "--local", "1", "--context", "64", "--parallel", "8", *ALONE)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_that_schemathesis_makes_up_is_answered_500(tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    # A request may ask for less time than anything takes, and is told so.
    config.write_text('[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", "504"]\n')
    with started(*_SERVE) as process:
        url = served_url(process)
        assert set(httpx.get(f"{url}/openapi.json").json()["paths"]) >= {"/v1/chat/completions", "/health", "/line"}
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json"]
        options = ["--checks", "not_a_server_error", "--mode", "all", "--max-examples", "50", "--seed", "1"]
        options += ["--request-timeout", "60"]
        # By itself, at last: without the model there would be little left to ask.
        assert _n_cases([*command, *options, "--exclude-path", _UNLOAD]) > 300
        assert httpx.get(f"{url}/health").status_code == 200
        assert _n_cases([*command, *options, "--include-path", _UNLOAD]) > 0
        assert httpx.get(f"{url}/health").status_code in (200, 503)


def _n_cases(command: list[str]) -> int:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    cases = re.search(r"(\d+) generated", ended.stdout)
    assert cases is not None, ended.stdout[-3000:]
    return int(cases.group(1))
