# SPDX-License-Identifier: MIT
"""The configuration file: defaults for the options of every command, in TOML (docs/config.md). `root` reads it before a
command parses its own options; the command `worker` hands its table on, `doctor` says which file it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click
import platformdirs

from coordinator.cli.options import LineOptions
from coordinator.toml import TomlError, parse_toml, read_text
from protos.options import OptionTable, OptionTableError, nearest, options_by_name

SHARED = "caravan"
"""A table by the root command's name says the same as the top of the file. `worker` is an option and a command: TOML
has room for one of them at the top, and the other one goes elsewhere."""

MODELS = "models"
"""The table of tables for models, one each: `[models.NAME]`."""

MODEL = "model"
"""In such a table, what model it is."""

OF_A_MODEL = frozenset(each.name for each in fields(LineOptions)) - {"insecure_workers"} | {
    "queue",
    "client_limit",
    "request_timeout",
}
"""Options that it may set, as click calls them: those of its line, and of the requests to it."""

PASSED_ON = "worker"
"""A program of its own, which checks its table itself."""


def default_path() -> Path:
    """Where the file is looked for if nobody names one."""
    return Path(platformdirs.user_config_path("caravan", appauthor=False)) / "config.toml"


@dataclass(frozen=True, slots=True)
class Config:
    """What a file says.

    Attributes:
        shared: Options for every command that has them.
        tables: Options for one command, by its name.
        models: Models that `caravan serve` has, by their names.
    """

    path: Path
    shared: OptionTable
    tables: dict[str, OptionTable]
    models: dict[str, OptionTable] = field(default_factory=dict)

    def defaults_for(self, name: str, root: click.Context) -> dict[str, object]:
        """What click takes as the `default_map` of command `name`.

        Args:
            root: Has all commands; others than `name` are imported only for a name that this one does not know.

        Raises:
            OptionTableError: The table of this command, or the top of the file, says what cannot be.
        """
        if name == PASSED_ON:
            return {}
        command = _command(root, name)
        known = options_by_name(command)
        for option in sorted(self.shared.values.keys() - known.keys()):
            self._check_known(option, root)
        shared = {option: value for option, value in self.shared.values.items() if option in known}
        tables = [OptionTable(self.shared.where, shared)]
        if name in self.tables:
            tables.append(self.tables[name])
        return {key: value for each in tables for key, value in each.defaults_for(command, f"caravan {name}").items()}

    def faults(self, root: click.Context) -> list[str]:
        """What is wrong with the file, one sentence each, at most one for a command."""
        checks = [lambda name=name: self.defaults_for(name, root) for name in _names(root)]
        checks += [lambda table=table: own_options(table, _command(root, "serve")) for table in self.models.values()]
        faults = map(_fault, checks)
        return list(dict.fromkeys(fault for fault in faults if fault is not None))

    def _check_known(self, option: str, root: click.Context) -> None:
        """Raises OptionTableError unless some command has the option, and a file may set it."""
        known: set[str] = set()
        for name in _names(root):
            options = options_by_name(_command(root, name)) if name != PASSED_ON else {}
            if option in options:
                self.shared.check_allowed(option, options[option])
                return
            known |= options.keys()
        near = nearest(option, known)
        hint = f" (is it {near}?)" if near else ""
        self.shared.fail(
            option, f"no command has an option of that name{hint}; those of `caravan worker` go below [worker]"
        )


def own_options(table: OptionTable, serve: click.Command) -> dict[str, object]:
    """What a model's table sets of the options of `caravan serve`, as `OptionTable.defaults_for` gives it.

    Raises:
        OptionTableError: It says what cannot be, or what is the whole server's.
    """
    for name, option in options_by_name(serve).items():
        if name in table.values and option.name not in OF_A_MODEL:
            table.fail(name, "it is the server's, and not of one model: write it below [serve]")
    own = {name: value for name, value in table.values.items() if name != MODEL}
    return OptionTable(table.where, own).defaults_for(serve, "caravan serve")


def _fault(check: Callable[[], object]) -> str | None:
    try:
        check()
    except OptionTableError as error:
        return error.message
    return None


def read_config(path: Path | None, root: click.Context) -> Config | None:
    """The file of that path; or without one, the default one, if it is there.

    Args:
        root: Has all commands.

    Raises:
        OptionTableError: It cannot be read, is no TOML, or has a table for no command.
    """
    source = path or default_path()
    try:
        text = read_text(source)
    except FileNotFoundError as error:
        if path is None:
            return None
        raise OptionTableError(f"{error}: name a config file that is, with --config or CARAVAN_CONFIG") from error
    except TomlError as error:
        raise OptionTableError(f"{error}: mend that, or name another config file with --config") from error
    try:
        content = parse_toml(text, str(source))
    except TomlError as error:
        raise OptionTableError(f"{error}; {_remedy(text)}") from error
    return _sorted_out(source, content, _names(root))


def _sorted_out(path: Path, content: dict[str, Any], names: Collection[str]) -> Config:
    """The content by who it is for."""
    models = _models(path, content.pop(MODELS, {}))
    top = {key: value for key, value in content.items() if not isinstance(value, dict)}
    tables = {key: OptionTable.of(f"{path}: [{key}]", value) for key, value in content.items() if key not in top}
    shared = OptionTable.of(f"{path}:", top)
    also = tables.pop(SHARED, None)
    if also is not None:
        for name in also.values.keys() & shared.values.keys():
            also.fail(name, "it is at the top of the file too: take one of them out")
        shared = OptionTable(shared.where, {**shared.values, **also.values})
    for table in sorted(tables.keys() - set(names)):
        near = nearest(table, [*names, SHARED])
        remedy = f"is it [{near}]?" if near else f"there are {', '.join(f'[{name}]' for name in names)}"
        raise OptionTableError(f"{path}: [{table}] is no command's table: {remedy}")
    for key in sorted(top.keys() & set(names) - {PASSED_ON}):
        shared.fail(key, f"{key} is a command: write its options below [{key}]")
    return Config(path, shared, tables, models)


def _models(path: Path, content: object) -> dict[str, OptionTable]:
    """The tables of models."""
    if not isinstance(content, dict) or not all(isinstance(table, dict) for table in content.values()):
        raise OptionTableError(
            f'{path}: [{MODELS}] has a table for each model: write [{MODELS}.NAME], and model = "..."'
        )
    return {name: OptionTable.of(f"{path}: [{MODELS}.{name}]", table) for name, table in content.items()}


def _remedy(text: str) -> str:
    top = re.split(r"^\s*\[", text, maxsplit=1, flags=re.MULTILINE)[0]
    if re.search(r"^\s*worker\s*=", top, re.MULTILINE) and re.search(r"^\s*\[\s*worker\s*\]", text, re.MULTILINE):
        return "worker is an option and a command: where both are set, write the option below [caravan]"
    return "mend it there"


def _names(root: click.Context) -> list[str]:
    assert isinstance(root.command, click.Group)
    return root.command.list_commands(root)


def _command(root: click.Context, name: str) -> click.Command:
    assert isinstance(root.command, click.Group)
    command = root.command.get_command(root, name)
    assert command is not None
    return command
