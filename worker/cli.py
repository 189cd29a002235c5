# SPDX-License-Identifier: MIT
"""`caravan worker`: the command line, its messages and exit codes. What it does is in worker/supervisor.py, and in
worker/daemon.py for each worker that the supervisor starts (those have a --parent-pid).

stdout gets one line per worker, when it is ready; all else goes to stderr.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from protos.cluster import Cluster
from protos.durations import parse_duration
from protos.joining import JoinCode
from protos.options import TABLE_VARIABLE, OptionTable, OptionTableError, name_variables, parsed
from protos.sizes import parse_size, size
from worker.errors import StartError
from worker.fleet import CLUSTER_CHANGED, SPLITS, Wishes, WorkerOrder, orders, without
from worker.joining import ON_THIS_MACHINE, take_stand
from worker.listening import Endpoint
from worker.service import service_of
from worker.supervisor import Supervisor, default_devices

# What loads llama.cpp is imported where a worker begins: the supervisor does without.
if TYPE_CHECKING:
    from worker.daemon import Ready

_EPILOG = """\b
To paste, for a worker on each of this machine's GPUs (or on its CPU):
  caravan worker                         on the first computer; it prints a code
  caravan worker --join CODE             on the others, the first time
For two of them and the CPU, findable as desk-CUDA0, desk-CUDA1 and desk-CPU:
  caravan worker --device CUDA0 --device CUDA1 --device CPU --name desk
For one worker that holds its layers on two cards together:
  caravan worker --device CUDA0,CUDA1
"""


@click.command(epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option(
    "--device",
    "devices",
    metavar="NAME",
    multiple=True,
    help="Device to compute on; may be given more than once, for a worker each. Cards joined by a comma are one"
    " worker's. Default: every GPU, else the CPU.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="auto",
    show_default=True,
    help="How cards joined by a comma share each stage: layers, or every tensor (row: refused). auto: tensors where"
    " NVLink or peer access joins the cards, else layers.",
)
@click.option("--integrated", is_flag=True, help="Without --device: a worker for an integrated GPU, too.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=parsed(Endpoint.parse),
    help="Where to listen: at PORT for calls, at the one after it for weights; several workers take two each, from PORT"
    " on. Port 0: any free ones. Default: everywhere, for members of the cluster; 127.0.0.1:0 with --insecure or"
    " --parent-pid.",
)
@click.option(
    "--join",
    "joined",
    type=JoinCode(),
    allow_from_autoenv=False,
    help="Become a member of the cluster with this join code; needed once. -: ask for it, or read it from stdin.",
)
@click.option(
    "--memory",
    "max_bytes",
    metavar="SIZE",
    callback=parsed(parse_size),
    help="Most of the device's memory to use, like 20GiB; default: all that is free.",
)
@click.option(
    "--reserve",
    "reserve_bytes",
    metavar="SIZE",
    callback=parsed(parse_size),
    default="0",
    show_default=True,
    help="How much of the device's memory to leave free, like 2GiB.",
)
@click.option(
    "--ram",
    "max_host_bytes",
    metavar="SIZE",
    callback=parsed(parse_size),
    help="Most system memory to use beside the devices, like 32GiB, for experts that do not fit there; several workers"
    " share it equally. Default: what is free less 2 GiB or a tenth of all. Without a GPU: the most to use at all,"
    " or beside --memory.",
)
@click.option("--name", help="Name in the mesh, of several workers with the device's; default: the host's with it.")
@click.option(
    "--models",
    "model_folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with GGUF files, in it or below; may be given more than once.",
)
@click.option(
    "--cache-size",
    "cache_bytes",
    metavar="SIZE",
    callback=parsed(parse_size),
    help="Most of the disk to keep weights on, like 200GiB; default: all but a tenth of it, and 20 GiB at most.",
)
@click.option(
    "--keep-loaded",
    "keep_loaded_s",
    metavar="TIME",
    callback=parsed(parse_duration),
    default="5m",
    show_default=True,
    help="How long layers stay loaded that nobody uses any more, for whoever loads the same again; any other load has"
    " them go at once. 0: not at all.",
)
@click.option(
    "--no-internet",
    is_flag=True,
    help="Do not read weights from their servers, but from other workers and the coordinator only.",
)
@click.option("--no-mdns", is_flag=True, help="Do not announce this worker on the network.")
@click.option(
    "--insecure",
    is_flag=True,
    allow_from_autoenv=False,
    help="Be a member of no cluster, and listen wherever --listen says though nothing checks who calls.",
)
@click.option(
    "--threads",
    "n_threads",
    type=click.IntRange(min=1),
    help="CPU threads to compute with; default: one per core that it may use.",
)
@click.option(
    "--install-service",
    is_flag=True,
    allow_from_autoenv=False,
    help="Start nothing, but write what starts this command, with its other options, at every login (systemd, launchd,"
    " or Windows' task scheduler), and say how to use it.",
)
@click.option(
    "--parent-pid",
    type=click.IntRange(min=1),
    help="Be one worker, without a supervisor, and exit when that process is gone.",
)
@click.option("--json", "as_json", is_flag=True, help="Say what there is to say as JSON.")
@click.option("--verbose", is_flag=True, help="Log what happens.")
@click.option("--debug", is_flag=True, help="Log everything, llama.cpp's own log too; errors with traceback.")
@click.pass_obj
def command(
    arguments: Sequence[str],
    devices: tuple[str, ...],
    split: str,
    integrated: bool,
    listen: Endpoint | None,
    joined: Cluster | None,
    max_bytes: int | None,
    reserve_bytes: int,
    max_host_bytes: int | None,
    name: str | None,
    model_folders: tuple[Path, ...],
    cache_bytes: int | None,
    keep_loaded_s: float,
    no_internet: bool,
    no_mdns: bool,
    insecure: bool,
    n_threads: int | None,
    install_service: bool,
    parent_pid: int | None,
    as_json: bool,
    verbose: bool,
    debug: bool,
) -> None:
    """Lend this machine's devices to a caravan: each holds some of a model's layers for a coordinator.

    Every option has a variable, CARAVAN_WORKER_DEVICE for --device and so on, and may stand below [worker] in the
    configuration file (docs/config.md); --join and --insecure alone must be typed out.
    """
    if joined is not None and (insecure or parent_pid is not None):
        raise click.UsageError("--join is for workers of a cluster under their supervisor: leave out the other")
    if install_service and parent_pid is not None:
        raise click.UsageError("--install-service is for a supervisor: leave out --parent-pid")
    if parent_pid is None:
        endpoint = _stand(listen, joined, insecure=insecure)
        if install_service:
            _install_service(arguments)
            return
        workers = _orders(arguments, Wishes(devices, endpoint, name, split, max_host_bytes), integrated=integrated)
        sys.exit(Supervisor(workers, holds_back=not (verbose or debug)).run())
    if len(devices) > 1:
        raise click.UsageError("with --parent-pid there is one worker, and it has one --device; join cards by a comma")
    # What these make stays. To look for garbage among it took a tenth of a worker's start, and 50 ms each time after.
    gc.disable()
    from worker.daemon import Daemon, Settings
    from worker.memory import MemoryLimits

    gc.freeze()
    gc.enable()
    _set_up_logging(verbose=verbose, debug=debug)
    settings = Settings(
        endpoint=listen or ON_THIS_MACHINE,
        device=devices[0] if devices else None,
        split=split,
        name=name,
        limits=MemoryLimits(max_bytes, reserve_bytes, max_host_bytes),
        model_folders=model_folders,
        cache_bytes=cache_bytes,
        keep_loaded_s=keep_loaded_s,
        use_mdns=not no_mdns,
        insecure=insecure,
        n_threads=n_threads,
        use_internet=not no_internet,
        parent_pid=parent_pid,
    )
    try:
        if Daemon(settings).run(_say_json if as_json else _say):
            sys.exit(CLUSTER_CHANGED)
    except StartError as error:
        if debug:
            logging.getLogger(__name__).exception("could not start")
        _fail(error)


name_variables(command, "CARAVAN_WORKER")


def main() -> None:
    """The process's entry point."""
    try:
        defaults = _defaults()
    except OptionTableError as error:
        click.echo(f"caravan worker: {error}", err=True)
        sys.exit(error.exit_code)
    arguments = sys.argv[1:]
    command.main(arguments, prog_name="caravan worker", default_map=defaults, obj=arguments)


def _defaults() -> dict[str, object]:
    """What `caravan worker` found in its table of the configuration file."""
    packed = os.environ.get(TABLE_VARIABLE)
    return OptionTable.unpack(packed).defaults_for(command, "caravan worker") if packed else {}


def _stand(listen: Endpoint | None, joined: Cluster | None, *, insecure: bool) -> Endpoint:
    """Where to listen; as a member, if that is needed."""
    try:
        standing = take_stand(listen, joined, insecure=insecure)
    except StartError as error:
        _fail(error)
    if standing.news:
        click.echo(standing.news, err=True)
    return standing.endpoint


def _orders(arguments: Sequence[str], wishes: Wishes, *, integrated: bool) -> list[WorkerOrder]:
    """The workers to run; each gets the command line as it is but for what the supervisor deals out."""
    try:
        devices = wishes.devices or default_devices(integrated=integrated)
        return orders(replace(wishes, devices=devices), arguments, _options_with_value())
    except StartError as error:
        _fail(error)


def _options_with_value() -> set[str]:
    options = [option for option in command.params if isinstance(option, click.Option)]
    return {name for option in options if not option.is_flag for name in option.opts}


def _install_service(arguments: Sequence[str]) -> None:
    """The join code is no part of it: by now this machine is a member."""
    service = service_of(without(arguments, {"--install-service", "--join"}, _options_with_value()))
    try:
        service.install()
    except StartError as error:
        _fail(error)
    click.echo(f"{service.path} starts this machine's workers. What to type:\n\n{service.advice}")


def _fail(error: StartError) -> NoReturn:
    click.echo(f"caravan worker: {error}", err=True)
    sys.exit(error.exit_code)


def _say(ready: Ready) -> None:
    device = ready.device
    click.echo(
        f"worker {ready.name} ready on {ready.address}, device {device.name} ({device.description}),"
        f" {size(device.free_bytes)} free of {size(device.total_bytes)}, llama.cpp {ready.llama_cpp}"
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
    # They log addresses, which may be as good as keys.
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not debug:
        # llama.cpp warns about much that is none of the user's business.
        logging.getLogger("native.llama_cpp").setLevel(logging.ERROR)
