# SPDX-License-Identifier: MIT
"""What is said to limit a line: for each case frames that say so, and the sentence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from coordinator.bottleneck import Limit, LimitKind, Load, limit_of
from coordinator.frame_log import FrameRecord
from coordinator.plan import Demand, Plan, Stage
from coordinator.rebalancing import rebalance
from coordinator.waterfall import figures_of
from coordinator.workers import StageMemory
from native import LayerBytes, LayerCosts, LayerRange
from tests.coordinator.fleet import GIB, MIB
from tests.coordinator.made_up_frames import run

_WEIGHTS, _KV = 100 * MIB, 10 * MIB
"""Of each layer; the KV cache is of four sequences."""


def _plan(*n_layers: int, free: int = 64 * GIB, output: int = 0, hosts: str = "", n_cpu_moe: int = 0) -> Plan:
    """Workers A, B and so on with so many equal layers each."""
    layers = (LayerBytes(_WEIGHTS, _KV),) * sum(n_layers)
    demand = Demand("tale", LayerCosts(layers, 0, output, False), n_ctx=2048, n_sequences=4)
    stages, start = [], 0
    for name, n, host in zip("ABCDEF", n_layers, hosts or "abcdef", strict=False):
        own = LayerRange(start, start + n)
        memory = StageMemory(demand.stage_memory(own).weights_bytes, n * _KV, 50 * MIB)
        stages.append(Stage(name, f"{name}:1", "CPU", own, memory, free, n_cpu_moe, host))
        start += n
    return Plan(demand, tuple(stages))


def _limit(plan: Plan, frames: Sequence[FrameRecord], load: Load) -> Limit:
    return limit_of(figures_of(frames, 1.0, 9.0, len(plan.stages)), plan, load)


_FOUR = Load(4, 0, 4)
_ONE = Load(1, 0, 4)


def test_a_busy_worker_is_named_with_the_layers_that_would_balance_the_line() -> None:
    # 5 ms a layer here, 2.5 ms there: 16 and 8 of 24 layers take 80 ms and 20 ms, 8 and 16 take 40 ms each.
    limit = _limit(_plan(16, 8), run((0.08, 0.02), 0.001, n_in_flight=3), _FOUR)
    assert (limit.kind, limit.worker) == (LimitKind.BUSY_WORKER, "A")
    assert limit.sentence == (
        "A is busy 100 % of the time, but B only 25 %; 8 layers fewer on A would balance the line and make it "
        "about 2.0 times as fast."
    )
    assert limit.rebalanced is not None
    assert limit.rebalanced.stages == (("A", LayerRange(0, 8)), ("B", LayerRange(8, 24)))
    assert limit.rebalanced.gain == pytest.approx(2.0)
    before, after = (len(run(stage_s, 0.001, n_in_flight=3)) for stage_s in ((0.08, 0.02), (0.04, 0.04)))
    assert after / before == pytest.approx(2.0, rel=0.03)
    assert limit.option == "--layers A=0-7,B=8-23"


def test_layers_pass_through_a_worker_between() -> None:
    limit = _limit(_plan(12, 6, 6), run((0.06, 0.03, 0.03), 0.001, n_in_flight=4), _FOUR)
    assert limit.option == "--layers A=0-7,B=8-15,C=16-23"
    assert "4 layers fewer on A would balance the line and make it about 1.5 times as fast" in limit.sentence


def test_workers_as_busy_as_the_busiest_are_not_called_less_busy() -> None:
    limit = _limit(_plan(8, 8, 8), run((0.05, 0.05, 0.02), 0.001, n_in_flight=4), _FOUR)
    assert limit.sentence.startswith("A is busy 100 % of the time, but C only 40 %; 3 layers fewer on A")
    assert limit.option == "--layers A=0-4,B=5-9,C=10-23"


def test_the_output_layer_counts_as_much_as_its_weights() -> None:
    # It weighs as four layers, so that B's 12 layers cost as much as 16; the least is 14 and 10 (with the output, 14).
    limit = _limit(_plan(12, 12, output=4 * _WEIGHTS), run((0.036, 0.048), 0.001, n_in_flight=3), _FOUR)
    assert (limit.worker, limit.option) == ("B", "--layers A=0-13,B=14-23")
    # A prompt asks for one row of it: there B's layers are the slower ones.
    prompts = run((0.36, 0.48), 0.001, n_in_flight=3, is_decode=False, n_tokens=64)
    limit = _limit(_plan(12, 12, output=4 * _WEIGHTS), prompts, _FOUR)
    assert limit.option == "--layers A=0-13,B=14-23"
    assert "(100 % of that for prompts)" in limit.sentence


def test_without_memory_for_them_layers_stay() -> None:
    frames = run((0.08, 0.02), 0.001, n_in_flight=3)
    # B's eight layers take 880 MiB and 50 MiB to compute in; a margin of 64 MiB and one more layer fit.
    limit = _limit(_plan(16, 8, free=(880 + 50 + 64 + 110) * MIB), frames, _FOUR)
    assert limit.rebalanced is not None
    assert limit.rebalanced.stages[1] == ("B", LayerRange(15, 24))
    limit = _limit(_plan(16, 8, free=(880 + 50 + 64 + 109) * MIB), frames, _FOUR)
    assert (limit.rebalanced, limit.option) == (None, None)
    assert limit.sentence == (
        "A is busy 100 % of the time, but B only 25 %; the others have no memory for as many of its layers as would "
        "help."
    )


def test_what_gains_less_than_a_twentieth_is_not_offered() -> None:
    # Two layers, of which neither can be halved.
    limit = _limit(_plan(1, 1), run((0.08, 0.02), 0.001, n_in_flight=3), _FOUR)
    assert (limit.worker, limit.rebalanced) == ("A", None)
    assert "no other layer ranges for these workers in this order would be 5 % faster" in limit.sentence


def test_nothing_is_said_of_layers_where_experts_lie_in_system_memory_or_frames_are_few() -> None:
    frames = run((0.08, 0.02), 0.001, n_in_flight=3)
    limit = _limit(_plan(16, 8, n_cpu_moe=2), frames, _FOUR)
    assert limit.sentence == "A is busy 100 % of the time, but B only 25 %."
    assert rebalance(_plan(16, 8), figures_of(frames[:6], 0.0, 9.0, 2)) is None


def test_layers_by_hand_are_offered_to_one_line_only() -> None:
    limit = _limit(_plan(16, 8), run((0.08, 0.02), 0.001, n_in_flight=3), Load(4, 0, 4, n_lines=2))
    assert (limit.option, limit.rebalanced is not None) == (None, True)


def test_workers_that_are_all_busy_are_told_with_the_queue() -> None:
    limit = _limit(_plan(12, 12), run((0.05, 0.048), 0.001, n_in_flight=3), Load(4, 3, 4))
    assert (limit.kind, limit.worker, limit.rebalanced) == (LimitKind.ALL_BUSY, None, None)
    assert limit.sentence == (
        "All workers are about equally busy (A 100 %, B 96 %): the line does what they can. All 4 slots are taken and "
        "3 requests wait."
    )


def test_a_worker_alone_that_is_busy_is_the_line() -> None:
    limit = _limit(_plan(24), run((0.05,), 0.001, n_in_flight=1), Load(1, 1, 1))
    assert (limit.kind, limit.worker) == (LimitKind.BUSY_WORKER, "A")
    assert limit.sentence == (
        "A, which holds all layers, computes 96 % of the time: the line is as fast as it is. The one slot is taken and "
        "1 request waits."
    )


def test_hops_are_told_with_what_they_take() -> None:
    frames = run((0.01, 0.01), 0.01, n_in_flight=1)
    limit = _limit(_plan(12, 12), frames, _ONE)
    assert limit.kind is LimitKind.HOPS
    assert limit.sentence == (
        "Hops and handing on take 60 % of each frame's trip (30.0 ms of 50.0 ms): a faster network, or fewer workers "
        "where the model fits, would save some. The workers compute part of the time: A 20 %, B 20 %."
    )
    assert "fewer workers, where the model fits" in _limit(_plan(12, 12, hosts="aa"), frames, _ONE).sentence
    alone = _limit(_plan(24), run((0.01,), 0.01, n_in_flight=1), _ONE)
    assert alone.sentence.endswith("the way between the coordinator and A is what to make faster.")


def test_one_stream_alone_makes_workers_wait_for_each_other() -> None:
    limit = _limit(_plan(12, 12), run((0.05, 0.04), 0.001, n_in_flight=1), _ONE)
    assert (limit.kind, limit.rebalanced) == (LimitKind.ONE_STREAM, None)
    assert limit.sentence == (
        "There is one request alone: its tokens pass the workers one after the other (A 54 %, B 43 %). More requests "
        "at a time would use what is left."
    )


def test_few_frames_are_told_with_their_number_and_size() -> None:
    limit = _limit(_plan(8, 8, 8), run((0.05, 0.05, 0.05), 0.001, n_in_flight=2, n_tokens=3), _FOUR)
    assert limit.kind is LimitKind.FEW_FRAMES
    assert "(2.0 at a time, of 3 tokens) do not keep its workers busy (A 65 %, B 65 %, C 65 %)" in limit.sentence


def test_requests_that_wait_for_slots_while_workers_do_for_frames_get_more_where_memory_allows() -> None:
    frames = run((0.05, 0.05), 0.02, n_in_flight=1)
    limit = _limit(_plan(12, 12), frames, Load(4, 3, 4))
    assert limit.kind is LimitKind.SLOTS
    assert limit.sentence == (
        "All 4 slots are taken and 3 requests wait, while the busiest worker, A, computes only 31 % of the time: "
        "--parallel 7 would fill it more, and the workers have the memory."
    )
    # 12 layers take 1320 MiB, 30 of them for each sequence.
    for more_mib, words in ((60, "--parallel 6 "), (29, "no memory for another")):
        tight = _plan(12, 12, free=(1320 + 50 + 64 + more_mib) * MIB)
        assert words in _limit(tight, frames, Load(4, 3, 4)).sentence


def test_a_line_without_work_is_not_limited() -> None:
    plan, frames = _plan(12, 12), run((0.08, 0.02), 0.001, n_in_flight=3, until_s=3.0)
    idle = limit_of(figures_of(frames, 20.0, 30.0, 2), plan, Load(0, 0, 4))
    assert (idle.kind, idle.sentence) == (
        LimitKind.NOTHING_TO_DO,
        "Nothing was in the line for the last 10 s.",
    )
    partly = limit_of(figures_of(frames, 0.0, 10.0, 2), plan, Load(0, 0, 4))
    assert partly.kind is LimitKind.NOTHING_TO_DO
    assert partly.sentence.startswith("The line was empty for 68 % of the last 10 s")
    stuck = limit_of(figures_of(frames, 20.0, 30.0, 2), plan, Load(1, 0, 4, oldest_in_flight_s=12.0))
    assert stuck.kind is LimitKind.NOT_KNOWN
    assert stuck.sentence.startswith("A frame has been in the line for 12 s")
