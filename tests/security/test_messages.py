# SPDX-License-Identifier: MIT
"""Malformed and oversized messages: made-up ones by the thousand, through all that checks messages. A million of them:
scripts/fuzz_frames.
"""

import importlib
from types import ModuleType

import pytest

from tests.coordinator.caravan_command import ROOT
from worker import frames

_N_CASES = 4000
_SEED = 1


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What makes them up."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("fuzzing.messages")


def test_made_up_messages_are_refused_or_are_within_every_bound(messages: ModuleType) -> None:
    counts = messages.run(_N_CASES, _SEED)
    # Some of each kind pass: else they would not get to what is checked last.
    assert all(counts[f"{kind.name} passed"] for kind in messages.kinds())
    assert sum(counts[name] for name in {kind.name for kind in messages.kinds()}) == _N_CASES


@pytest.mark.parametrize("check", ["_check_ids", "_check_kv_operations", "_crossing"])
def test_a_bound_that_nobody_checks_is_found(messages: ModuleType, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    monkeypatch.setattr(frames, check, lambda *_: ())
    if check == "_crossing":
        monkeypatch.setattr(frames, check, lambda frame, *_: frame.crossing)
    with pytest.raises(messages.Finding):
        messages.run(_N_CASES, _SEED)
