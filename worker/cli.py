# SPDX-License-Identifier: MIT
"""`caravan worker`: the command line, its messages and exit codes. Everything it does is in worker/daemon.py.

stdout gets one line, when the worker is ready; all else goes to stderr.
"""

import json
import logging
import os
import sys
from pathlib import Path

import click

from protos.sizes import parse_size, shown
from worker.daemon import Daemon, Ready, Settings
from worker.errors import StartError
from worker.listening import Endpoint
from worker.memory import MemoryLimits

_EPILOG = """\b
To paste, for a worker on this machine's first GPU (or its CPU):
  caravan worker
One for a second device, findable under a name of its own:
  caravan worker --device CUDA1 --name desk-2
One that holds its layers on two cards together:
  caravan worker --device CUDA0,CUDA1
"""


def _parse_endpoint(context: click.Context, option: click.Parameter, value: str) -> Endpoint:
    try:
        return Endpoint.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


def _parse_size(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_size(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option(
    "--device",
    metavar="NAME",
    help="Device to compute on, or cards joined by commas to compute on together; default: the first GPU, else the"
    " CPU.",
)
@click.option(
    "--split",
    type=click.Choice(["auto", "layer", "row", "tensor"]),
    default="auto",
    show_default=True,
    help="How several cards share each stage: layers, or rows or all tensors of each. auto: tensors where NVLink or"
    " peer access joins the cards, else layers.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_parse_endpoint,
    default="127.0.0.1:0",
    show_default=True,
    help="Where to listen; port 0: any free one.",
)
@click.option(
    "--memory",
    "max_bytes",
    metavar="SIZE",
    callback=_parse_size,
    help="Most of the device's memory to use, like 20GiB; default: all that is free.",
)
@click.option(
    "--reserve",
    "reserve_bytes",
    metavar="SIZE",
    callback=_parse_size,
    default="0",
    show_default=True,
    help="How much of the device's memory to leave free, like 2GiB.",
)
@click.option("--name", help="Name in the mesh; default: from the host's and the device's.")
@click.option(
    "--models",
    "model_folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with GGUF files; may be given more than once.",
)
@click.option("--no-mdns", is_flag=True, help="Do not announce this worker on the network.")
@click.option(
    "--insecure",
    is_flag=True,
    allow_from_autoenv=False,
    help="Listen beyond this machine though nothing checks who calls.",
)
@click.option(
    "--threads", "n_threads", type=click.IntRange(min=1), help="CPU threads to compute with; default: one per core."
)
@click.option("--parent-pid", type=click.IntRange(min=1), help="Exit when that process is gone.")
@click.option("--json", "as_json", is_flag=True, help="Say what there is to say as JSON.")
@click.option("--verbose", is_flag=True, help="Log what happens.")
@click.option("--debug", is_flag=True, help="Log everything, llama.cpp's own log too; errors with traceback.")
def command(
    device: str | None,
    split: str,
    listen: Endpoint,
    max_bytes: int | None,
    reserve_bytes: int,
    name: str | None,
    model_folders: tuple[Path, ...],
    no_mdns: bool,
    insecure: bool,
    n_threads: int | None,
    parent_pid: int | None,
    as_json: bool,
    verbose: bool,
    debug: bool,
) -> None:
    """Lend this machine's device to a caravan: holds some of a model's layers for a coordinator.

    Every option has a variable, CARAVAN_WORKER_DEVICE for --device and so on; --insecure alone must be typed out.
    """
    _set_up_logging(verbose=verbose, debug=debug)
    settings = Settings(
        endpoint=listen,
        device=device,
        split=split,
        name=name,
        limits=MemoryLimits(max_bytes, reserve_bytes),
        model_folders=model_folders,
        use_mdns=not no_mdns,
        insecure=insecure,
        n_threads=n_threads,
        parent_pid=parent_pid,
    )
    try:
        Daemon(settings).run(_say_json if as_json else _say)
    except StartError as error:
        if debug:
            logging.getLogger(__name__).exception("could not start")
        click.echo(f"caravan worker: {error}", err=True)
        sys.exit(error.exit_code)


def main() -> None:
    """The process's entry point."""
    command.main(prog_name="caravan worker", auto_envvar_prefix="CARAVAN_WORKER")


def _say(ready: Ready) -> None:
    device = ready.device
    click.echo(
        f"worker {ready.name} ready on {ready.address}, device {device.name} ({device.description}),"
        f" {shown(device.free_bytes)} free of {shown(device.total_bytes)}, llama.cpp {ready.llama_cpp}"
    )


def _say_json(ready: Ready) -> None:
    click.echo(
        json.dumps(
            {
                "name": ready.name,
                "address": ready.address,
                "device": ready.device.name,
                "free_bytes": ready.device.free_bytes,
                "total_bytes": ready.device.total_bytes,
                "llama_cpp": ready.llama_cpp,
                "pid": os.getpid(),
            }
        )
    )


def _set_up_logging(*, verbose: bool, debug: bool) -> None:
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if not debug:
        # llama.cpp warns about much that is none of the user's business.
        logging.getLogger("native.llama_cpp").setLevel(logging.ERROR)
