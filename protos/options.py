# SPDX-License-Identifier: MIT
"""What the options of the coordinator's and the worker's commands have in common: an environment variable each, and
tables of a configuration file, checked against the click command that takes them. Used when a command starts.

`caravan worker` becomes the worker's own program, whose options the coordinator does not know: it hands over the file's
[worker] table in one environment variable, and the worker checks it as the coordinator checks the others.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import click

TABLE_VARIABLE = "CARAVAN_WORKER_TABLE"
"""Set by `caravan worker` for the program that it becomes."""

_MAX_SHOWN = 60
"""Characters of a wrong value in a message."""


_Value = TypeVar("_Value")


class OptionTableError(click.UsageError):
    """A file says what cannot be; one sentence that names file, key, value and what is expected."""


def options_by_name(command: click.Command) -> dict[str, click.Option]:
    """A command's options by their names in a file: those of their long flags, without the dashes in front."""
    options = (parameter for parameter in command.params if isinstance(parameter, click.Option))
    return {flag[2:]: option for option in options for flag in option.opts if flag.startswith("--")}


def parsed(parse: Callable[[str], _Value]) -> Callable[[click.Context, click.Parameter, str | None], _Value | None]:
    """The callback of an option whose text `parse` reads. Its ValueError is wrong usage; what was not given is None."""

    def read(context: click.Context, option: click.Parameter, value: str | None) -> _Value | None:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), context, option) from error

    return read


def name_variables(command: click.Command, prefix: str) -> None:
    """Gives every option an environment variable that is called like its flag, which --help then tells. An option
    that is not `allow_from_autoenv` gets none: it must be typed."""
    for name, option in options_by_name(command).items():
        if option.allow_from_autoenv and option.envvar is None:
            option.envvar = f"{prefix}_{name.upper().replace('-', '_')}"
            option.show_envvar = True


@dataclass(frozen=True, slots=True)
class OptionTable:
    """Options as a file has them, by their names.

    Attributes:
        where: What messages begin with: the file, and the table's heading.
    """

    where: str
    values: Mapping[str, object]

    @classmethod
    def of(cls, where: str, values: Mapping[str, object]) -> OptionTable:
        """A table as it was written: a name may have _ for -.

        Raises:
            OptionTableError: One is there twice.
        """
        named: dict[str, object] = {}
        for key, value in values.items():
            name = key.replace("_", "-")
            if name in named:
                raise OptionTableError(f"{where} {name} is there with - and with _: take one of them out")
            named[name] = value
        return cls(where, named)

    @classmethod
    def unpack(cls, text: str) -> OptionTable:
        """What `pack` gave.

        Raises:
            OptionTableError: It is something else.
        """
        try:
            content = json.loads(text)
            return cls(str(content["where"]), dict(content["values"]))
        except (ValueError, KeyError, TypeError):
            raise OptionTableError(
                f"{TABLE_VARIABLE} is for `caravan worker` alone to set: unset it, and use a config file"
            ) from None

    def pack(self) -> str:
        """The table as text, for TABLE_VARIABLE; a date becomes its text."""
        return json.dumps({"where": self.where, "values": self.values}, default=str)

    def defaults_for(self, command: click.Command, called: str) -> dict[str, object]:
        """What click takes as the command's `default_map`; every value has been read once, as click will read it.

        Args:
            called: The command's name in messages.

        Raises:
            OptionTableError: An option is not the command's, must be typed, or cannot have its value.
        """
        options = options_by_name(command)
        for name in self.values.keys() - options.keys():
            near = nearest(name, options)
            remedy = f"is it {near}?" if near else f"`{called} --help` lists those there are"
            self.fail(name, f"{called} has no option of that name: {remedy}")
        return dict(self._read(name, options[name]) for name in self.values)

    def check_allowed(self, name: str, option: click.Option) -> None:
        """Raises OptionTableError if it is an option that a file cannot set."""
        if not option.allow_from_autoenv:
            self.fail(name, f"--{name} must be typed at each start: take it out of the file")

    def fail(self, name: str, problem: str) -> NoReturn:
        """Raises OptionTableError about an option of this table."""
        raise OptionTableError(f"{self.where} {name} = {shown_value(self.values[name])}: {problem}")

    def _read(self, name: str, option: click.Option) -> tuple[str, object]:
        """The option's name to click, and its value as the command line would have it."""
        value = self.values[name]
        self.check_allowed(name, option)
        if option.is_flag:
            if not isinstance(value, bool):
                self.fail(name, "write true or false, without quotes")
            return str(option.name), value
        is_list = option.multiple or option.nargs != 1
        if is_list and not isinstance(value, list):
            self.fail(name, f"write a list, {name} = [{shown_value(value)}]")
        texts = list(_texts(value))
        if None in texts or (isinstance(value, list) and not is_list):
            what = "texts or numbers in a list" if is_list else "one text or number"
            self.fail(name, f"write {what}, as after --{name} on the command line")
        given = texts if is_list else texts[0]
        try:
            option.process_value(click.Context(command=click.Command(name)), given)
        except click.BadParameter as error:
            self.fail(name, error.message.rstrip("."))
        return str(option.name), given


def nearest(name: str, names: Collection[str]) -> str | None:
    """The one of them that was perhaps meant."""
    return next(iter(difflib.get_close_matches(name, names, n=1)), None)


def shown_value(value: object) -> str:
    """A value as a file has it, for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _texts(value: object) -> Iterator[str | None]:
    """Each value as it is typed on a command line; None for what nobody can type."""
    for each in value if isinstance(value, list) else [value]:
        is_scalar = isinstance(each, str | int | float) and not isinstance(each, bool)
        yield str(each) if is_scalar else None
