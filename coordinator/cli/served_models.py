# SPDX-License-Identifier: MIT
"""Which models `caravan serve` has: those that were typed, those of a folder, and those of the configuration file's
tables `[models.NAME]`; each with a name of its own, and the options that it is opened with.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import click

from coordinator.cli.config import MODEL, own_options
from coordinator.cli.line import open_arguments
from coordinator.cli.options import LineOptions
from coordinator.mesh import OpenOptions
from coordinator.resident import KnownModel
from coordinator.weights.references import stem_of
from coordinator.weights.sources import model_name
from protos.options import OptionTable

_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<model>.+)", re.ASCII)

_PART = re.compile(r".+-(?!00001)\d{5}-of-\d{5}\.gguf")
"""Of a split model any part but the first."""

_PROJECTOR = "mmproj"
"""With what llama.cpp's users begin the names of files that are no models by themselves."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What each model is opened with, unless its table says otherwise."""

    line: LineOptions
    queue: int
    client_limit: int | None
    request_timeout: float | None
    local: int

    def as_open_options(self) -> OpenOptions:
        """As `Mesh.open` names them."""
        line = self.line
        own = OpenOptions(
            queue=self.queue,
            client_limit=self.client_limit,
            request_timeout=self.request_timeout,
            local_workers=self.local,
            # Whether a worker that comes later would make it faster is only known if it is known how fast it is.
            predicted=line.rejoin == "auto" and line.discovery_timeout > 0 and line.distribution != "off",
        )
        return cast(OpenOptions, open_arguments(line) | own)


@dataclass(frozen=True, slots=True)
class _Source:
    """A model, and what messages call the place where it is named."""

    model: str
    where: str


def served_models(
    typed: Sequence[str],
    alias: str | None,
    folder: Path | None,
    tables: Mapping[str, OptionTable],
    options: ServeOptions,
) -> list[KnownModel]:
    """The models in order: those typed, those of tables, those of the folder.

    Args:
        typed: MODEL, NAME=MODEL, or the name of a table.
        alias: The name of the one that was typed.
        tables: Of the configuration file, by names of models.

    Raises:
        UsageError: Two have one name, a table is wrong, or there is none.
        ModelError: A file that was typed is not there.
    """
    if alias is not None and len(typed) != 1:
        raise click.UsageError("--alias names the one MODEL: of several write each as NAME=MODEL")
    sources: dict[str, _Source] = {}
    for text in typed:
        _add(sources, *_typed_one(text, alias, tables))
    for name, table in tables.items():
        if MODEL in table.values:
            if not isinstance(table.values[MODEL], str):
                table.fail(MODEL, "write a path, hf:OWNER/REPO[:QUANT], or the like, in quotes")
            _add(sources, name, _Source(str(table.values[MODEL]), table.where))
    for path in _files(folder):
        _add(sources, stem_of(path.name), _Source(str(path), str(path)))
    if not sources:
        raise click.UsageError("there is no model: name a MODEL, a folder with --models-dir, or [models.NAME] tables")
    for name, table in tables.items():
        if name not in sources:
            message = f'{table.where} no model is called {name}: write model = "..." in this table, or take it out'
            raise click.UsageError(message)
    return [KnownModel(name, source.model, _options_of(tables.get(name), options)) for name, source in sources.items()]


def _typed_one(text: str, alias: str | None, tables: Mapping[str, OptionTable]) -> tuple[str, _Source]:
    if text in tables and MODEL in tables[text].values and alias is None:
        return text, _Source(str(tables[text].values[MODEL]), tables[text].where)
    named = _NAMED.fullmatch(text)
    if named is None or os.path.exists(text):
        return alias or model_name(text), _Source(text, text)
    model_name(named["model"])  # raises where there is no such file
    return alias or named["name"], _Source(named["model"], text)


def _add(sources: dict[str, _Source], name: str, source: _Source) -> None:
    there = sources.setdefault(name, source)
    is_file = os.path.exists(there.model) and os.path.exists(source.model)
    if there.model != source.model and not (is_file and os.path.samefile(there.model, source.model)):
        message = f"two models are called {name}, {there.where} and {source.where}"
        raise click.UsageError(f"{message}: write NAME={source.model} for one, or take it out")


def _files(folder: Path | None) -> list[Path]:
    """The models of a folder and of those in it, as llama-server looks for them: of a split model the first part."""
    if folder is None:
        return []
    found = sorted([*folder.glob("*.gguf"), *folder.glob("*/*.gguf")])
    models = [path for path in found if not _PART.fullmatch(path.name) and not path.name.startswith(_PROJECTOR)]
    if not models:
        raise click.UsageError(f"there is no GGUF file in {folder}: name the folder that has some with --models-dir")
    return models


def _options_of(table: OptionTable | None, options: ServeOptions) -> OpenOptions:
    """With what a model's own table says."""
    if table is None:
        return options.as_open_options()
    context = click.get_current_context()
    values = own_options(table, context.command)
    parsed: dict[str, Any] = {
        str(option.name): option.process_value(context, values[str(option.name)])
        for option in context.command.params
        if option.name in values
    }
    line = {each.name: parsed.pop(each.name) for each in fields(LineOptions) if each.name in parsed}
    return replace(options, line=replace(options.line, **line), **parsed).as_open_options()
