# SPDX-License-Identifier: MIT
"""The results as the tables of docs/compatibility.md: by route, check by check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from comparison.check import Result, Verdict
from comparison.upstream import NOT_SHARED


def table_lines(results: Sequence[Result], tests: Sequence[str]) -> list[str]:
    """Of the checks' results, and of llama.cpp's tests that are about something else."""
    counts = Counter(result.verdict for result in results)
    told = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    n_others = sum(test.partition("::")[0] in NOT_SHARED for test in tests)
    lines = [
        f"{len(results)} checks, of {len(tests) - n_others} of llama.cpp's tests: {told}. "
        f"Its {n_others} other tests are about [what is not shared](#what-is-not-shared).",
    ]
    for route in dict.fromkeys(result.check.route for result in results):
        own = [result for result in results if result.check.route == route]
        lines += ["", f"### {route}", "", "| what is checked | llama.cpp's test | here |", "|---|---|---|"]
        lines += map(_row, own)
    return [*lines, "", "### What is not shared", "", *_others(tests)]


def _row(result: Result) -> str:
    check = result.check
    tests = ", ".join(f"`{test.partition('::')[2]}`" for test in check.tests)
    here = result.verdict.value
    if check.reason and result.verdict is (Verdict.MISSING if check.is_missing else Verdict.ON_PURPOSE):
        here += f": {check.reason}"
    return f"| {check.what} | {tests} | {here} |"


def _others(tests: Sequence[str]) -> Iterator[str]:
    yield "| llama.cpp's tests | of | here |"
    yield "|---|---|---|"
    for file, (what, here) in NOT_SHARED.items():
        n_tests = sum(test.partition("::")[0] == file for test in tests)
        yield f"| `{file}` ({n_tests}) | {what} | {here} |"
