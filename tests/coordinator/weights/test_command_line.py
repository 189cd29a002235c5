# SPDX-License-Identifier: MIT
"""Models of a hub on the command line: what its library's own settings say, holds."""

from __future__ import annotations

from pathlib import Path

from tests.coordinator.caravan_command import ALONE, caravan
from tests.coordinator.weights.stand_in import Hub


def test_the_command_line_reaches_a_mirror_by_the_hubs_own_settings(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.repositories["llamas/tiny-GGUF"] = {"tiny-Q8_0.gguf": model.read_bytes()}
    hub.token = "hf_secret"
    inventory = tmp_path / "machines.toml"
    inventory.write_text('[[device]]\nname = "desk"\ncard = "RTX 3090"\n')
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "hf")}
    ended = caravan("plan", "hf:llamas/tiny-GGUF", "--inventory", inventory, "--json", *ALONE, **settings)
    assert ended.returncode == 0, ended.stderr
    assert '"model": "llamas/tiny-GGUF"' in ended.stdout
    assert '"phase": "fetching", "message": "asking the hub for llamas/tiny-GGUF"' in ended.stderr
