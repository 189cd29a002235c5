# SPDX-License-Identifier: MIT
"""`caravan bench` with a real worker: its table, and what it prints when it is stopped."""

from __future__ import annotations

import re

from tests.coordinator.caravan_command import ALONE, caravan_here
from tests.coordinator.terminal import CTRL_C, in_terminal


def test_a_bench_has_llama_benchs_columns_says_what_limits_each_test_and_ctrl_c_prints_what_is_done() -> None:
    args = ("-p", "32,100000", "-n", "8,200", "--streams", "1,2", "-r", "3", "--context", "256")
    with in_terminal("bench", "demo", *args, *ALONE) as terminal:
        terminal.wait_for(r"pp100000 is left out: it takes 100001 tokens of context, and there are 256")
        terminal.wait_for(r"tg200 \(4 of 5\)")
        terminal.type(CTRL_C)
        shown = terminal.wait_for(r"tg8 x2: .*\n")
        assert terminal.end() == 130
    heading, rule, *rows = shown[shown.index("| model") :].splitlines()
    titles = [cell.strip() for cell in heading.strip("|").split("|")]
    assert titles == ["model", "size", "params", "backend", "stages", "test", "t/s"]
    assert re.fullmatch(r"(\|-+)+\|", rule)
    tests = [[cell.strip() for cell in row.strip("|").split("|")][-2:] for row in rows[:3]]
    assert [name for name, _ in tests] == ["pp32", "tg8", "tg8 x2"]
    assert all(re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", speed) for _, speed in tests)
    assert [row.partition(":")[0] for row in rows[4:]] == ["pp32", "tg8", "tg8 x2"]
    assert all(re.search(r"t/s, TTFT \d+ ms\. \w.*\.$", row) for row in rows[4:])


def test_nothing_to_measure_is_wrong_usage() -> None:
    for args in (("-p", "0", "-n", "0"), ("-p", "many")):
        assert caravan_here("bench", "demo", *args).returncode == 2
