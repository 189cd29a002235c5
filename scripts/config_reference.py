# SPDX-License-Identifier: MIT
"""Writes the tables of docs/config.md, every option of every command, from the commands themselves.

scripts/config_reference            writes them
scripts/config_reference --check    only exits 1 if they are stale
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from coordinator.cli.config import PASSED_ON
from coordinator.cli.root import root
from protos.options import options_by_name
from worker.cli import command as worker_command
from written_part import write_or_check

PAGE = Path(__file__).resolve().parent.parent / "docs" / "config.md"
_TOLD_DEFAULT = re.compile(r"\s*\[default: (.+?)\]")
"""In the help of an option whose default is no value."""


@dataclass(frozen=True, slots=True)
class Row:
    """An option, the same for each command that has such a row; `is_shared`: at the top of the file it reaches it."""

    is_shared: bool
    name: str
    takes: str
    default: str
    meaning: str


def reference() -> str:
    """The tables: what commands share, then what each has for itself."""
    commands: dict[Row, list[str]] = {}
    for name, row in _rows():
        commands.setdefault(row, []).append(name)
    lines = [
        "### At the top, or in a table",
        "",
        *_table([row for row in commands if len(commands[row]) > 1], commands),
    ]
    for name in dict.fromkeys(name for names in commands.values() for name in names):
        own = [row for row in commands if commands[row] == [name]]
        if own:
            lines += ["", f"### [{name}]", "", *_table(own, None)]
    return "\n".join(lines)


def _rows() -> Iterator[tuple[str, Row]]:
    context = click.Context(root)
    for name in root.list_commands(context):
        command = worker_command if name == PASSED_ON else root.get_command(context, name)
        assert command is not None
        for flag, option in options_by_name(command).items():
            if option.allow_from_autoenv:
                yield name, _row(flag, option, click.Context(command), is_shared=name != PASSED_ON)


def _row(name: str, option: click.Option, context: click.Context, *, is_shared: bool) -> Row:
    extra = option.get_help_extra(context)
    takes = "true or false" if option.is_flag else option.make_metavar(context).replace("INTEGER RANGE", "N")
    if "range" in extra:
        takes += f", {extra['range']}"
    meaning = option.help or ""
    told = _TOLD_DEFAULT.search(meaning)
    default = told[1] if told else extra.get("default", "false" if option.is_flag else "")
    return Row(
        is_shared, name, f"list of {takes}" if option.multiple else takes, default, _TOLD_DEFAULT.sub("", meaning)
    )


def _table(rows: list[Row], commands: dict[Row, list[str]] | None) -> Iterator[str]:
    """A row for each; with the commands that have it, if they are given."""
    titles = ["name", *(["commands"] if commands else []), "takes", "default", "meaning"]
    yield "| " + " | ".join(titles) + " |"
    yield "|---" * len(titles) + "|"
    for row in rows:
        cells = [
            f"`{row.name}`",
            *([", ".join(commands[row])] if commands else []),
            row.takes,
            row.default,
            row.meaning,
        ]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    write_or_check(PAGE, "config_reference", reference())
