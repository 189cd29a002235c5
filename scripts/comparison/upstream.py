# SPDX-License-Identifier: MIT
"""llama.cpp's own tests of its server, by name; and which of them are about what the two servers do not share."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

UNIT = Path("tools", "server", "tests", "unit")

NOT_SHARED: Mapping[str, tuple[str, str]] = {
    "test_compat_anthropic.py": ("POST /v1/messages, /v1/messages/count_tokens", "missing: Anthropic's API"),
    "test_compat_gcp.py": ("POST /predict", "missing: Vertex AI's form, made by variables of its environment"),
    "test_infill.py": ("POST /infill", "missing: text between two others"),
    "test_kv_keep_only_active.py": ("--cache-idle-slots", "different on purpose: caches of idle slots stay on the workers"),
    "test_lora.py": ("GET, POST /lora-adapters", "missing: LoRA adapters"),
    "test_mcp_servers.py": ("--mcp-servers-config, /tools", "different on purpose: the server runs no programs for its clients"),
    "test_proxy.py": ("GET /cors-proxy", "different on purpose: the server fetches nothing for web pages"),
    "test_router.py": ("POST /models/load, /models/unload", "different on purpose: models are loaded over the same workers, in this process ([several models](http.md#several-models)); tested in `tests/line/test_several_models.py`"),
    "test_sleep.py": ("--sleep-idle-seconds", "different on purpose: a line that nobody uses computes nothing; it stays loaded"),
    "test_slot_save.py": ("POST /slots/ID?action=save", "missing: caches in files"),
    "test_speculative.py": ("--model-draft", "the draft model is an option of the command line here too (`--draft`); that guesses change no text is tested in `tests/line/test_draft_model.py`"),
    "test_stream.py": ("GET, DELETE /v1/stream", "different on purpose: a stream is taken up again by its id, as OpenAI has it for responses ([an answer again](http.md#an-answer-again))"),
    "test_tools_builtin.py": ("/tools", "different on purpose: the server runs no programs for its clients"),
    "test_vision_api.py": ("images", "missing: models that see"),
}  # fmt: skip
"""By file: what its tests ask, and how that stands. All in them is about one thing that ours has not, or has its own way
for."""


def tests_of(source: Path) -> list[str]:
    """All tests, as `test_basic.py::test_server_props`, in their order."""
    found = []
    for file in sorted((source / UNIT).glob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        found += [f"{file.name}::{each.name}" for each in functions if each.name.startswith("test_")]
    return found
