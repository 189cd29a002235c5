# SPDX-License-Identifier: MIT
"""`caravan cache`, which is `python -m worker.cache`: what the store holds, whether it is right, and room made by hand.

Data goes to stdout, all else to stderr. Workers may use the store meanwhile.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import IO, TypeVar

import click

from protos.options import parsed
from protos.sizes import parse_size, size
from worker.errors import CallError
from worker.weights.eviction import Tenant, choose
from worker.weights.room import Listed
from worker.weights.store import ModelStore, models_folder

_COLUMNS = ("ID", "MODEL", "TENSORS", "HELD", "OF", "ON DISK", "LAST USED", "")
# Of an identity, for people.
_ID_CHARACTERS = 12
_DAY_S = 86_400
# The first that fits tells how long ago something was.
_UNITS = ((_DAY_S, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))

_Command = TypeVar("_Command", bound=Callable[..., object])


class _UserError(click.ClickException):
    """The user can mend it; the message is a sentence with what to do."""

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"caravan cache: {self.message}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def command() -> None:
    """What this machine keeps of models that it fetched.

    \b
    caravan cache list
    caravan cache verify
    caravan cache prune --older-than 30
    """  # fmt: skip


def _json_option(wrapped: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(wrapped)


@command.command("list")
@_json_option
def list_models(as_json: bool) -> None:
    """List the models, how much of each is here, and which are in use."""
    with _Opened() as store:
        models = store.models()
        held_bytes = [_held_bytes(store, model) for model in models]
    if as_json:
        data = [_as_data(model, n_bytes) for model, n_bytes in zip(models, held_bytes, strict=True)]
        click.echo(json.dumps({"folder": str(store.folder), "models": data}, indent=2))
        return
    if not models:
        click.echo(f"nothing is kept in {store.folder}", err=True)
        return
    rows = [_COLUMNS, *(_row(model, n_bytes) for model, n_bytes in zip(models, held_bytes, strict=True))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@command.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@_json_option
def verify(models: tuple[str, ...], as_json: bool) -> None:
    """Read all that is kept, or that of some models, and compare it with its hashes.

    What is wrong is forgotten, so that it is fetched again; then the exit code is 1.
    """
    with _Opened() as store:
        chosen = _chosen(store.models(), models)
        wrong = {model.identity: _verify(store, model) for model in chosen}
    for model in chosen:
        names = wrong[model.identity]
        for name in names:
            click.echo(f"{_name(model)}: {name} is wrong, and will be fetched again", err=True)
        if not names:
            click.echo(f"{_name(model)}: all that is kept of it is right", err=True)
    if as_json:
        data = [{"identity": m.identity, "name": _name(m), "wrong": wrong[m.identity]} for m in chosen]
        click.echo(json.dumps({"models": data}, indent=2))
    if any(wrong.values()):
        sys.exit(1)


@command.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option(
    "--to",
    "most_bytes",
    metavar="SIZE",
    callback=parsed(parse_size),
    help="The least recently used, until so much is left.",
)
@click.option("--older-than", "days", metavar="DAYS", type=click.FloatRange(min=0), help="Those unused for so long.")
@_json_option
def prune(models: tuple[str, ...], most_bytes: int | None, days: float | None, as_json: bool) -> None:
    """Delete models that nobody uses: those named (by their name or the beginning of their ID), old ones, or as many
    as it takes."""
    if not models and most_bytes is None and days is None:
        raise click.UsageError("say what to delete: a MODEL, --to SIZE or --older-than DAYS")
    with _Opened() as store:
        store.clean()
        listed = store.models()
        going = _chosen(listed, models) if models else listed
        if days is not None:
            going = [model for model in going if model.last_used < time.time() - days * _DAY_S]
        if most_bytes is not None:
            surplus_bytes = sum(model.taken_bytes for model in listed) - most_bytes
            identities = {tenant.identity for tenant in choose(map(_tenant, going), surplus_bytes)}
            going = [model for model in going if model.identity in identities]
        freed = {model.identity: store.remove(model.identity) for model in going}
    for model in going:
        n_bytes = freed[model.identity]
        said = f"deleted {_name(model)}: {size(n_bytes)}" if n_bytes else f"{_name(model)} is in use, and stays"
        click.echo(said, err=True)
    click.echo(f"{size(sum(freed.values()))} are free again", err=True)
    if as_json:
        data = [{"identity": m.identity, "name": _name(m), "freed_bytes": freed[m.identity]} for m in going]
        click.echo(json.dumps({"models": data}, indent=2))


class _Opened:
    """The store of this user, closed at the end."""

    def __init__(self) -> None:
        self._store = ModelStore(models_folder(), None)

    def __enter__(self) -> ModelStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


def _chosen(listed: Sequence[Listed], names: Iterable[str]) -> list[Listed]:
    """Those that are meant; all without a name."""
    chosen: list[Listed] = []
    for name in names:
        meant = [model for model in listed if _name(model) == name or model.identity.startswith(name.lower())]
        if not meant:
            raise _UserError(f"no model {name!r} is kept here; see `caravan cache list`")
        chosen += [model for model in meant if model not in chosen]
    return chosen or list(listed)


def _verify(store: ModelStore, listed: Listed) -> list[str]:
    """Names of the tensors that were wrong."""
    model = store.find(listed.identity)
    if model is None:
        return ["the header"]
    tensors = model.layout.tensors
    wrong = []
    held = sorted(model.held())
    total_bytes = sum(tensors[tensor].n_bytes for tensor in held)
    bar = click.progressbar(length=total_bytes, label=_name(listed), file=sys.stderr, hidden=not sys.stderr.isatty())
    with model.in_use(counts=False), bar:
        for tensor in held:
            if not model.verify(tensor):
                wrong.append(tensors[tensor].name)
            bar.update(tensors[tensor].n_bytes)
    return wrong


def _held_bytes(store: ModelStore, listed: Listed) -> int:
    model = store.find(listed.identity)
    return 0 if model is None else sum(model.layout.tensors[tensor].n_bytes for tensor in model.held())


def _name(model: Listed) -> str:
    return f"{model.identity[:_ID_CHARACTERS]} (damaged)" if model.about is None else model.about.name


def _row(model: Listed, held_bytes: int) -> tuple[str, ...]:
    about = model.about
    return (
        model.identity[:_ID_CHARACTERS],
        "(damaged)" if about is None else about.name,
        "-" if about is None else f"{model.n_held} of {about.n_tensors}",
        size(held_bytes),
        "-" if about is None else size(about.n_bytes),
        size(model.taken_bytes),
        _ago(time.time() - model.last_used),
        "in use" if model.is_in_use else "",
    )


def _as_data(model: Listed, held_bytes: int) -> dict[str, object]:
    about = model.about
    return {
        "identity": model.identity,
        "name": None if about is None else about.name,
        "files": [] if about is None else [part.file_name for part in about.parts],
        "n_tensors": None if about is None else about.n_tensors,
        "n_bytes": None if about is None else about.n_bytes,
        "n_held_tensors": model.n_held,
        "held_bytes": held_bytes,
        "disk_bytes": model.taken_bytes,
        "last_used": model.last_used,
        "is_in_use": model.is_in_use,
    }


def _tenant(model: Listed) -> Tenant:
    return Tenant(model.identity, model.taken_bytes, model.last_used, model.is_in_use)


def _ago(seconds: float) -> str:
    for unit_s, unit in _UNITS:
        if seconds >= 2 * unit_s:
            return f"{int(seconds // unit_s)} {unit} ago"
    return "just now"


def main() -> None:
    """The process's entry point."""
    try:
        command.main(prog_name="caravan cache", auto_envvar_prefix="CARAVAN_CACHE")
    except (CallError, OSError) as error:
        click.echo(f"caravan cache: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
