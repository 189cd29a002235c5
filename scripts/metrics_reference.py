# SPDX-License-Identifier: MIT
"""Writes the table of docs/metrics.md, every metric that `/metrics` tells, from where they are made.

scripts/metrics_reference            writes it
scripts/metrics_reference --check    only exits 1 if it is stale
"""

from __future__ import annotations

from pathlib import Path

from coordinator.http.metrics import METRICS
from written_part import write_or_check

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"


def reference() -> str:
    """The table."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    write_or_check(PAGE, "metrics_reference", reference())
