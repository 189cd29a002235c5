# SPDX-License-Identifier: MIT
"""The files of a user's cache: whole, or not there."""

from pathlib import Path

import pytest

from protos.cache_folder import write_whole


def test_a_file_is_written_with_its_folder_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "costs" / "model.json"
    for text in ("much longer than what follows", "short"):
        write_whole(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_leaves_no_draft(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "model.json", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
