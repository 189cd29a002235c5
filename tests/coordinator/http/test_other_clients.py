# SPDX-License-Identifier: MIT
"""Clients that others wrote, each set up by its own documentation: OpenAI's for JavaScript, the `llm` command, LiteLLM.

They are installed into folders of the tests' own; where there is no registry, or no node, the test is skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.coordinator.http.conftest import MODEL, Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_CASES = Path(__file__).with_name("other_clients")
_LLM = "llm==0.36"
_LITELLM = "litellm==1.100.0"
_NPM_OPENAI = "openai@7"
_INSTALL_S = 400


def _run(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CARAVAN_", "OPENAI_"))}
    return subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False, timeout=_INSTALL_S
    )


def _installed(folder: Path, package: str) -> Path:
    """The programs of a virtual environment of its own with this package."""
    made = _run([sys.executable, "-m", "venv", str(folder / "venv")], folder)
    assert made.returncode == 0, made.stderr
    programs = folder / "venv" / "bin"
    done = _run([str(programs / "pip"), "install", "--quiet", "--disable-pip-version-check", package], folder)
    if done.returncode != 0:
        pytest.skip(f"{package} cannot be installed here: {done.stderr.strip()[-300:]}")
    return programs


# ---- OpenAI's client for JavaScript ----


def test_openai_s_client_for_javascript_runs_its_suite(server: Server, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("there is no node with npm here")
    done = _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", _NPM_OPENAI], tmp_path)
    if done.returncode != 0:
        pytest.skip(f"{_NPM_OPENAI} cannot be installed here: {done.stderr.strip()[-300:]}")
    shutil.copy(_CASES / "openai.test.mjs", tmp_path)
    environment = {"CARAVAN_URL": f"{server.url}/v1", "CARAVAN_MODEL": MODEL}
    ended = _run([node, "--test", "--test-reporter=tap", "openai.test.mjs"], tmp_path, **environment)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]
    assert "# pass 14" in ended.stdout, ended.stdout[-1000:]


# ---- the llm command ----


@pytest.fixture(scope="module")
def llm_folder(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    """With `llm` in it, and the server named as "OpenAI-compatible models" in its documentation says."""
    folder = tmp_path_factory.mktemp("llm")
    _installed(folder, _LLM)
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: caravan\n  model_name: {MODEL}\n  api_base: {server.url}/v1\n  supports_schema: true\n"
        f"- model_id: caravan-text\n  model_name: {MODEL}\n  api_base: {server.url}/v1\n  completion: true\n"
    )
    return folder


def _llm(folder: Path, *arguments: str) -> str:
    ended = _run([str(folder / "venv" / "bin" / "llm"), *arguments], folder, LLM_USER_PATH=str(folder))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("options", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_llm_prompts(llm_folder: Path, options: list[str]) -> None:
    sampling = ["-o", "temperature", "0", "-o", "max_tokens", "40"]
    said = _llm(llm_folder, "-m", "caravan", *sampling, *options, "Tell me a story about a llama.")
    assert len(said) > 40


def test_llm_goes_on_with_a_conversation_and_logs_its_usage(llm_folder: Path) -> None:
    sampling = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
    _llm(llm_folder, "-m", "caravan", *sampling, "-s", "Be brief.", "Tell me of a llama.")
    _llm(llm_folder, "-c", *sampling, "Go on.")
    (last,) = json.loads(_llm(llm_folder, "logs", "-n", "1", "--json"))
    assert last["model"] == "caravan"
    assert last["output_tokens"] == 12
    assert last["input_tokens"] > 20


def test_llm_completes_a_text(llm_folder: Path) -> None:
    said = _llm(llm_folder, "-m", "caravan-text", "-o", "max_tokens", "20", "Once upon a time")
    assert len(said.strip()) > 20


def test_llm_keeps_to_a_schema(llm_folder: Path) -> None:
    said = _llm(
        llm_folder, "-m", "caravan", "-o", "max_tokens", "300", "--schema", "age int, is_llama bool", "A llama."
    )
    told = json.loads(said)
    assert isinstance(told["age"], int)
    assert isinstance(told["is_llama"], bool)


# ---- LiteLLM ----

_LITELLM_PROGRAM = """
import asyncio, json, sys
import litellm

url, model = sys.argv[1:]
fields = dict(model=f"openai/{model}", api_base=f"{url}/v1", api_key="none", temperature=0, max_tokens=24)
messages = [{"role": "user", "content": "Tell me a story about a llama."}]
whole = litellm.completion(messages=messages, **fields)
streamed = "".join(
    chunk.choices[0].delta.content or "" for chunk in litellm.completion(messages=messages, stream=True, **fields)
)
later = asyncio.run(litellm.acompletion(messages=messages, **fields))
text = litellm.text_completion(
    model=f"text-completion-openai/{model}", api_base=f"{url}/v1", api_key="none", prompt="Once", max_tokens=8
)
try:
    litellm.completion(messages=messages, **(fields | {"n": 0}))
    error = ""
except litellm.BadRequestError:
    error = "BadRequestError"
print(json.dumps({
    "whole": whole.choices[0].message.content, "streamed": streamed, "later": later.choices[0].message.content,
    "n_tokens": whole.usage.completion_tokens, "text": text.choices[0].text, "error": error,
}))
"""


def test_litellm_calls_it_as_an_openai_server(server: Server, tmp_path: Path) -> None:
    programs = _installed(tmp_path, _LITELLM)
    program = [str(programs / "python"), "-c", _LITELLM_PROGRAM, server.url, MODEL]
    # Else it fetches a list of prices when it is imported.
    ended = _run(program, tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert ended.returncode == 0, ended.stderr[-3000:]
    told: Mapping[str, object] = json.loads(ended.stdout.strip().splitlines()[-1])
    assert told["whole"] == told["streamed"] == told["later"] != ""
    assert (told["n_tokens"], told["error"]) == (24, "BadRequestError")
    assert told["text"]
