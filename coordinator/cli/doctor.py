# SPDX-License-Identifier: MIT
"""`caravan doctor`: what is well here and what is not, with what to do about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict

import click

from coordinator.cli.console import emit
from coordinator.cli.exits import ExitCode
from coordinator.cli.interrupts import interruptible
from coordinator.cli.options import discovery_timeout_option, option, worker_option
from coordinator.cli.settings import debug_option
from coordinator.diagnosis import Finding, Verdict, diagnose
from coordinator.plan import columns

_MARKS = {Verdict.GOOD: "ok", Verdict.NOTE: "note", Verdict.BAD: "BAD"}


@click.command("doctor")
@worker_option
@discovery_timeout_option
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def command(worker: tuple[str, ...], discovery_timeout: float, as_json: bool) -> int:
    """Look for what is wrong on this machine and between it and the workers; exits with 1 if something is.

    \b
    caravan doctor --worker 192.168.1.20:50051
    """  # fmt: skip
    with interruptible():
        findings = asyncio.run(diagnose(worker, timeout_s=discovery_timeout))
    emit((json.dumps([asdict(finding) for finding in findings], indent=2) if as_json else _shown(findings)) + "\n")
    is_well = all(finding.verdict is not Verdict.BAD for finding in findings)
    return ExitCode.OK if is_well else ExitCode.USER_ERROR


def _shown(findings: Sequence[Finding]) -> str:
    rows = columns([(_MARKS[finding.verdict], finding.subject, finding.text) for finding in findings])
    lines = []
    for row, finding in zip(rows, findings, strict=True):
        lines.append(row)
        if finding.remedy:
            lines.append(f"      {finding.remedy}")
    return "\n".join(lines)
