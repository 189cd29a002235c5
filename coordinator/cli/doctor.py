# SPDX-License-Identifier: MIT
"""`caravan doctor`: what is well here and what is not, with what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import asdict

import click

from coordinator.cli.config import default_path
from coordinator.cli.console import emit
from coordinator.cli.exits import ExitCode
from coordinator.cli.interrupts import interruptible
from coordinator.cli.options import discovery_timeout_option, insecure_workers_option, option, worker_option
from coordinator.cli.settings import Settings, debug_option
from coordinator.diagnosis import Finding, Verdict, diagnose
from coordinator.plan import columns

_MARKS = {Verdict.GOOD: "ok", Verdict.NOTE: "note", Verdict.BAD: "BAD"}


@click.command("doctor")
@worker_option
@insecure_workers_option
@discovery_timeout_option
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
@click.pass_context
def command(
    ctx: click.Context, worker: tuple[str, ...], insecure_workers: bool, discovery_timeout: float, as_json: bool
) -> int:
    """Look for what is wrong on this machine and between it and the workers; exits with 1 if something is.

    \b
    caravan doctor --worker 192.168.1.20:50051
    """  # fmt: skip
    with interruptible():
        looking = diagnose(worker, timeout_s=discovery_timeout, insecure=insecure_workers)
        findings = [*_config(ctx), *asyncio.run(looking)]
    emit((json.dumps([asdict(finding) for finding in findings], indent=2) if as_json else _shown(findings)) + "\n")
    is_well = all(finding.verdict is not Verdict.BAD for finding in findings)
    return ExitCode.OK if is_well else ExitCode.USER_ERROR


def _config(ctx: click.Context) -> list[Finding]:
    """Which configuration file is in force, and what is wrong in it for any command."""
    config, root = ctx.ensure_object(Settings).config, ctx.find_root()
    if config is None:
        return [Finding("config", Verdict.GOOD, f"there is no file; it would be {default_path()}")]
    path = config.path.absolute()
    findings = [Finding("config", Verdict.GOOD, str(path))]
    mode = path.stat().st_mode
    if os.name == "posix" and stat.S_ISREG(mode) and mode & stat.S_IWOTH:
        findings = [Finding("config", Verdict.NOTE, f"{path} can be written by anyone", f"chmod o-w {path}")]
    return findings + [Finding("config", Verdict.BAD, fault, "mend it there") for fault in config.faults(root)]


def _shown(findings: Sequence[Finding]) -> str:
    rows = columns([(_MARKS[finding.verdict], finding.subject, finding.text) for finding in findings])
    lines = []
    for row, finding in zip(rows, findings, strict=True):
        lines.append(row)
        if finding.remedy:
            lines.append(f"      {finding.remedy}")
    return "\n".join(lines)
