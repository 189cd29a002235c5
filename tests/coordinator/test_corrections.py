# SPDX-License-Identifier: MIT
"""What a run teaches the next plan, within bounds; and which tokens are looked at."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.candidates import Candidate
from coordinator.correction_store import keep_corrections, read_corrections
from coordinator.corrections import MIN_TOKENS, Correction, changes, corrected, learned
from coordinator.last_plan import keep_plan, last_plan
from coordinator.plan import Demand, Plan
from coordinator.planner import make_plan
from coordinator.prediction import STAGE_OVERHEAD_S
from coordinator.speed import Curve, Speed
from coordinator.timings import MeasuredTokens, TokenTimings
from coordinator.wishes import Distribution, Wishes
from native import LayerBytes, LayerCosts
from tests.coordinator.fleet import MIB, links_of

ON = Wishes(distribution=Distribution.ON)
DESK = "desk CPU"


def _demand() -> Demand:
    layers = (LayerBytes(90 * MIB, 10 * MIB),) * 8
    return Demand("model", LayerCosts(layers, 0, 0, False), n_ctx=4096, n_sequences=1, identity="c0ffee")


def _candidate(name: str = "a", host: str = "desk") -> Candidate:
    """A millisecond per layer."""
    speed = Speed((0,) * 8, (Curve(((1, 0.001),)),), Curve(((1, 0.0),)))
    return Candidate(name, f"{name}:1", "CPU", 4000 * MIB, speed=speed, host=host)


def _plan(*candidates: Candidate) -> Plan:
    names = [candidate.name for candidate in candidates]
    return make_plan(_demand(), candidates, wishes=ON, links=links_of(names, 2))


def _measured(*stage_ms: float, beside_ms: float = 0.0, n_tokens: int = 100) -> MeasuredTokens:
    stage_s = tuple(ms / 1000 for ms in stage_ms)
    return MeasuredTokens(n_tokens, stage_s, sum(stage_s) + beside_ms / 1000)


def test_a_run_moves_a_correction_half_of_its_way() -> None:
    plan = _plan(_candidate())
    assert learned(plan, _measured(8.0 * 1.44), {})[DESK].factor == pytest.approx(1.2)
    assert learned(plan, _measured(8.0 / 1.44), {})[DESK].factor == pytest.approx(1 / 1.2)
    assert learned(plan, _measured(8.0), {})[DESK].factor == pytest.approx(1.0)


def test_runs_that_are_alike_lead_to_what_they_say() -> None:
    corrections: dict[str, Correction] = {}
    for _ in range(12):
        plan = _plan(corrected(_candidate(), corrections))
        corrections |= learned(plan, _measured(12.0, beside_ms=2.0 + 3.0), corrections)
    assert corrections[DESK].factor == pytest.approx(1.5, rel=0.01)
    # Two milliseconds are the predicted hops.
    assert corrections[DESK].overhead_s == pytest.approx(0.003, rel=0.01)
    prediction = _plan(corrected(_candidate(), corrections)).prediction
    assert prediction is not None
    assert prediction.token_s == pytest.approx(0.017, rel=0.01)


@given(st.floats(1e-6, 100), st.floats(0, 100), st.floats(0.5, 2), st.integers(0, 200))
def test_no_run_leads_astray(computed_s: float, beside_s: float, factor: float, n_tokens: int) -> None:
    plan = _plan(corrected(_candidate(), {DESK: Correction(factor)}))
    measured = MeasuredTokens(n_tokens, (computed_s,), computed_s + beside_s)
    for correction in learned(plan, measured, {DESK: Correction(factor)}).values():
        assert 0.5 <= correction.factor <= 2
        assert 0 <= correction.overhead_s <= 0.02


def test_a_run_that_says_nothing_teaches_nothing() -> None:
    plan = _plan(_candidate())
    assert learned(plan, _measured(12.0, n_tokens=MIN_TOKENS - 1), {}) == {}
    assert learned(plan, _measured(6.0, 6.0), {}) == {}
    assert learned(replace(plan, prediction=None), _measured(12.0), {}) == {}
    assert learned(_plan(_candidate(host="")), _measured(12.0), {}) == {}


def test_each_device_of_a_line_has_its_own() -> None:
    plan = _plan(_candidate("a", "desk"), _candidate("b", "attic"))
    corrections = learned(plan, _measured(4.0 * 1.21, 4.0), {})
    assert corrections[DESK].factor == pytest.approx(1.1)
    assert corrections["attic CPU"].factor == pytest.approx(1.0)
    # Two workers on one device have one together.
    plan = _plan(_candidate("a", "desk"), _candidate("b", "desk"))
    assert learned(plan, _measured(4.0, 4.0 * 1.42), {})[DESK].factor == pytest.approx(1.1)


def test_the_plan_follows_and_says_so_where_a_figure_changed_by_more_than_a_tenth() -> None:
    slow = {DESK: Correction(1.5, STAGE_OVERHEAD_S)}
    plan = _plan(corrected(_candidate("a"), slow), corrected(_candidate("b", "attic"), slow))
    assert {stage.worker: len(stage.layers) for stage in plan.stages} == {"a": 3, "b": 5}
    assert plan.notes == (
        "a is counted with 5.0 ms per token, as earlier runs there say, and not with the 3.5 ms of its benchmark",
    )
    assert changes(_plan(corrected(_candidate(), {DESK: Correction(1.05)}))) == []
    assert len(changes(_plan(corrected(_candidate(), {DESK: Correction(1.0, 0.005)})))) == 1


def test_what_was_learned_is_kept_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path))
    assert read_corrections("c0ffee") == {}
    keep_corrections("c0ffee", {DESK: Correction(1.2, 0.001)})
    keep_corrections("c0ffee", {"attic CUDA0": Correction(0.8)})
    assert read_corrections("c0ffee") == {DESK: Correction(1.2, 0.001), "attic CUDA0": Correction(0.8)}
    assert read_corrections("f00d") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"desk CPU": 1}', '{"desk CPU": {"factor": 9, "overhead_s": 0}}'])
def test_what_is_damaged_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path))
    keep_corrections("c0ffee", {DESK: Correction(1.2, 0.001)})
    (file,) = (tmp_path / "corrections").iterdir()
    file.write_text(text)
    assert read_corrections("c0ffee") == {}


def test_the_last_plan_shows_every_stage_and_teaches_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARAVAN_CACHE", str(tmp_path))
    plan = _plan(_candidate("a", "desk"), _candidate("b", "attic"))
    keep_plan(plan, 80.0, _measured(4.0, 5.76, beside_ms=4.5))
    assert last_plan().explain().splitlines()[-3:] == [
        "  a computed 4.0 ms per token; predicted 4.0 ms",
        "  b computed 5.8 ms per token; predicted 4.0 ms",
        "  hops and handing on took 4.5 ms per token; predicted 3.0 ms",
    ]
    assert read_corrections("c0ffee")["attic CPU"].factor == pytest.approx(1.2)
    keep_plan(plan, 80.0)
    assert last_plan().stages == ()


# ---- which tokens are looked at ----


def test_only_tokens_of_a_stream_that_has_the_line_to_itself_count() -> None:
    timings = TokenTimings()
    timings.sent(1, is_decode_of_one=False)  # a prompt
    timings.received(1, (0.5,), 10.0)
    for number, now_s in ((2, 10.01), (3, 10.02), (4, 10.03)):
        timings.sent(number, is_decode_of_one=True)
        timings.received(number, (0.005,), now_s)
    measured = timings.measured()
    assert measured is not None
    # The first of them comes behind the prompt.
    assert (measured.n_tokens, measured.stage_s) == (2, (0.005,))
    assert measured.token_s == pytest.approx(0.01)
    assert measured.beside_s == pytest.approx(0.005)
    timings.sent(5, is_decode_of_one=True)
    timings.sent(6, is_decode_of_one=False)  # another's prompt goes along
    timings.received(5, (9.0,), 20.0)
    timings.received(6, (9.0,), 21.0)
    timings.sent(7, is_decode_of_one=True)
    timings.received(7, (9.0,), 22.0)
    assert timings.measured() == measured


def test_without_tokens_nothing_was_measured() -> None:
    assert TokenTimings().measured() is None
