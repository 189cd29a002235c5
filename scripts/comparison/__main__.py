# SPDX-License-Identifier: MIT
"""What llama.cpp's own tests check of its server, asked of a real llama-server and of a line of two workers with the
same GGUF: the same requests to both, statuses, forms and greedy texts held against each other.

    scripts/compatibility            tells; exits 1 if anything differs and no reason is known
    scripts/compatibility --write    the same, and the tables go into docs/compatibility.md

The first time it fetches llama.cpp's source (the pinned llama-cpp-python's source package) and builds llama-server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.report import write_between
from comparison.chat_checks import CHAT
from comparison.check import Check, Result, Verdict, compare
from comparison.completion_checks import COMPLETIONS
from comparison.feature_checks import FEATURES
from comparison.rerank_checks import RERANK
from comparison.server_checks import SERVER
from comparison.servers import both_servers, compared_model, reranker
from comparison.table import table_lines
from comparison.upstream import NOT_SHARED, tests_of
from llama_source import ROOT, build, fetch_source
from native.library import BUILT_FOR

PAGE = ROOT / "docs" / "compatibility.md"
TABLE = "compatibility"
CHECKS: tuple[Check, ...] = (*CHAT, *COMPLETIONS, *FEATURES, *SERVER)
"""By the model that writes and embeds."""


def main() -> int:
    """Compares, and tells."""
    options = _parser().parse_args()
    source = fetch_source(options.work, BUILT_FOR)
    tests = tests_of(source)
    _check_all_are_named(tests)
    program = options.llama_server
    if program is None:
        without = ["-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_OPENSSL=OFF"]
        program = build(source, options.work / "build-server", ["llama-server"], without) / "llama-server"
    with both_servers(program, compared_model(options.work, source)) as (theirs, ours):
        results = [compare(check, theirs, ours) for check in CHECKS]
    with both_servers(program, reranker(options.work), ranks=True) as (theirs, ours):
        results += [compare(check, theirs, ours) for check in RERANK]
    for result in results:
        _tell(result)
    if options.write:
        write_between(PAGE, TABLE, table_lines(results, tests))
    n_unexplained = sum(result.verdict is Verdict.DIFFERENT for result in results)
    print(f"{len(results)} checks, {n_unexplained} that differ without a reason")
    return 1 if n_unexplained else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/compatibility", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "bench", help="folder for what is fetched and built"
    )
    parser.add_argument("--llama-server", type=Path, help="one that is built already, of the same llama.cpp")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/compatibility.md")
    return parser


def _check_all_are_named(tests: Sequence[str]) -> None:
    """Ends the program if a test of llama.cpp's is neither checked nor said to be about something else, or if a check
    names one that there is not."""
    shared = {test for test in tests if test.partition("::")[0] not in NOT_SHARED}
    named = {test for check in (*CHECKS, *RERANK) for test in check.tests}
    if shared != named:
        sys.exit(f"not checked: {sorted(shared - named)}; not there: {sorted(named - shared)}")


def _tell(result: Result) -> None:
    print(f"{result.verdict.value:22} {result.check.route}: {result.check.what}")
    if result.verdict is Verdict.SAME:
        return
    for name, (theirs, ours) in result.differing.items():
        print(f"{'':22}   {name}: {str(theirs)[:300]!r} there, {str(ours)[:300]!r} here")


if __name__ == "__main__":
    sys.exit(main())
