# SPDX-License-Identifier: MIT
"""Options that several commands share: how to find workers and lay the model over them, and how to sample.

Each group of options becomes one frozen value, handed to the command as `line` or `sampling`.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from coordinator.cli.console import say
from coordinator.cli.exits import UserError
from coordinator.inventory.quantities import parse_bandwidth
from coordinator.options import LEAST_WORKER_TIMEOUT_S
from native import LayerRange, Pooling, SamplingParams
from protos.cluster import Cluster
from protos.joining import JoinCode, OtherClusterError, join
from protos.secret_file import SecretFileError

Command = TypeVar("Command", bound=Callable[..., Any])

KV_TYPES = ("f16", "bf16", "f32", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Those that llama.cpp's KV cache can have."""

_MAX_GRAMMAR_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LayersOption:
    """Layer ranges by hand, half-open: for the workers in order, or for some of them by name; at most one of them."""

    in_order: tuple[LayerRange, ...] | None = None
    by_name: dict[str, LayerRange] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LineOptions:
    """Which workers, and how the model lies over them. As `Mesh.open` takes them."""

    worker: tuple[str, ...]
    insecure_workers: bool
    discovery_timeout: float
    context: int | None
    flash_attention: str
    kv_type: str
    parallel: int
    batch: int
    ubatch: int | None
    context_shift: bool
    draft: str
    draft_on: str | None
    draft_device: str | None
    draft_threads: int | None
    embeddings: bool
    pooling: str | None
    layers: LayersOption
    only: tuple[str, ...]
    exclude: tuple[str, ...]
    distribution: str
    objective: str
    max_stages: int | None
    replicas: str
    main: str | None
    gpu_layers: int | None
    max_bandwidth: int | None
    worker_timeout: float
    recovery_timeout: float
    rejoin: str


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to generate. As `Mesh.generate` takes it."""

    params: SamplingParams
    max_tokens: int | None
    stop: tuple[str, ...]


class _WorkerAddress(click.ParamType[str]):
    name = "HOST:PORT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            self.fail(f"{value!r} is not HOST:PORT, such as 192.168.1.20:50200", param, ctx)
        return value


class _LayerRanges(click.ParamType[LayersOption]):
    name = "RANGES"

    def convert(
        self, value: str | LayersOption, param: click.Parameter | None, ctx: click.Context | None
    ) -> LayersOption:
        if isinstance(value, LayersOption):
            return value
        parts = [part.rpartition("=") for part in value.split(",")]
        try:
            ranges = [_inclusive(bounds) for _, _, bounds in parts]
        except ValueError:
            self.fail(f"{value!r} is not a list of layer ranges, such as 0-11,12-23 or attic=12-23", param, ctx)
        names = [name.strip() for name, _, _ in parts]
        if not any(names):
            return LayersOption(in_order=tuple(ranges))
        if not all(names) or len(set(names)) < len(names):
            self.fail(f"{value!r} must name a worker for each of its ranges, and each worker once", param, ctx)
        return LayersOption(by_name=dict(zip(names, ranges, strict=True)))


def _inclusive(bounds: str) -> LayerRange:
    """Of "0-11" layers 0 to 11, of "3" that one. Raises ValueError."""
    first, dash, last = bounds.partition("-")
    return LayerRange(int(first), (int(last) if dash else int(first)) + 1)


class _Bandwidth(click.ParamType[int]):
    name = "RATE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return max(1, round(parse_bandwidth(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Replicas(click.ParamType[str]):
    name = "N|auto"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value != "auto" and not (value.isascii() and value.isdecimal() and int(value) > 0):
            self.fail(f"{value!r} is neither a number of lines nor auto", param, ctx)
        return value


_worker_address = _WorkerAddress()

option = functools.partial(click.option, show_envvar=True, show_default=True)
"""Every option tells its environment variable and its default."""


def model_argument(*, required: bool = True, several: bool = False) -> Callable[[Command], Command]:
    """Adds the argument MODEL, or any number of them; a shell completes it to files."""

    def files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]

    if several:
        return click.argument("model", nargs=-1, shell_complete=files)
    return click.argument("model", required=required, shell_complete=files)


worker_option = option(
    "--worker",
    "-w",
    multiple=True,
    type=_worker_address,
    show_default=False,
    help="A worker's address, beside those found on the network; may be given several times.",
)

discovery_timeout_option = option(
    "--discovery-timeout",
    default=2.0,
    type=click.FloatRange(0, 600),
    metavar="SECONDS",
    help="How long to look for workers on the network; 0: only those given with --worker.",
)


insecure_workers_option = click.option(
    "--insecure-workers",
    is_flag=True,
    allow_from_autoenv=False,
    help="Use workers on other computers that are members of no cluster, so that anybody may be them, and read along;"
    " and no members.",
)


def line_options(command: Command) -> Command:
    """Adds the options of LineOptions; the command gets them as `line`."""

    @functools.wraps(command)
    def as_member(**given: Any) -> Any:  # noqa: ANN401 -- what click parsed
        _join(given.pop("joined"))
        return command(**given)

    options = [
        worker_option,
        insecure_workers_option,
        click.option("--join", "joined", type=JoinCode(), allow_from_autoenv=False,
                     help="Make this computer a member of the cluster with this join code first; needed once."
                     " -: ask for it, or read it from stdin."),
        discovery_timeout_option,
        option("--context", "-c", type=click.IntRange(8, 1 << 23), metavar="TOKENS",
               help="Context of one sequence.  [default: what the model was trained for, at most 4096]"),
        option("--parallel", default=4, type=click.IntRange(1, 256), metavar="N",
               help="How many sequences run at once."),
        option("--batch", default=512, type=click.IntRange(1, 1 << 16), metavar="TOKENS",
               help="Tokens in one frame at most."),
        option("--ubatch", type=click.IntRange(1, 1 << 16), metavar="TOKENS",
               help="Tokens that llama.cpp computes at once at most.  [default: 512, and the batch]"),
        option("--context-shift", is_flag=True,
               help="When its context is full, a request goes on without half of the tokens that it need not keep."),
        option("--draft", default="off", metavar="off|lookup|MODEL",
               help="Guess tokens, so that one trip through the workers can bring several: from text that repeats"
               " itself, or with a small model of its vocabulary; what is written stays the same."),
        option("--draft-on", metavar="WORKER",
               help="The worker that such a model runs on, beside its layers if it has some.  [default: this machine]"),
        option("--draft-device", metavar="NAME",
               help="The device of this machine that such a model lies on.  [default: CPU]"),
        option("--draft-threads", type=click.IntRange(1, 512), metavar="N",
               help="Threads of such a model on the CPU.  [default: half of the cores]"),
        option("--embeddings", is_flag=True,
               help="Embed texts too; models that were made for that do in any case."),
        option("--pooling", type=click.Choice([each.name.lower() for each in Pooling]),
               help="What an embedding is made of.  [default: as the model was made, else the last token]"),
        option("--flash-attention", default="off", type=click.Choice(["auto", "on", "off"]),
               help="llama.cpp's flash attention: quicker on most devices, and rounds otherwise than without."),
        option("--kv-type", default="f16", type=click.Choice(KV_TYPES),
               help="How the KV cache keeps keys and values; smaller ones than f16 need flash attention."),
        option("--distribution", default="auto", type=click.Choice(["auto", "on", "off"]),
               help="Over as many devices as it pays, over all that can hold a layer, or over one."),
        option("--objective", default="latency", type=click.Choice(["latency", "throughput"]),
               help="What the plan makes fast: one stream, or the slowest stage."),
        option("--layers", type=_LayerRanges(), metavar="RANGES", default=LayersOption(), show_default=False,
               help="Layer ranges by hand: 0-11,12-23 in the order of the workers, or attic=12-23 for some by name."),
        option("--only", multiple=True, metavar="NAME", show_default=False,
               help="Use this worker and no other; may be given several times."),
        option("--exclude", multiple=True, metavar="NAME", show_default=False,
               help="Do not use this worker; may be given several times."),
        option("--replicas", default="1", type=_Replicas(), metavar="N|auto",
               help="Lay the model over so many lines of workers, each a whole; auto: as many as find room."),
        option("--max-stages", type=click.IntRange(min=1), metavar="N", help="Use at most so many workers."),
        option("--main", metavar="NAME",
               help="This worker has the output layer and samples; with --distribution off it is the one used."),
        option("--gpu-layers", type=click.IntRange(min=0), metavar="N",
               help="Put the last so many layers on GPU workers and all others on CPU workers; 0: none on GPUs."),
        option("--worker-timeout", default=5.0, type=click.FloatRange(LEAST_WORKER_TIMEOUT_S), metavar="SECONDS",
               help="How long a worker may be silent while it is needed, before others go on without it."),
        option("--recovery-timeout", default=120.0, type=click.FloatRange(0), metavar="SECONDS",
               help="How long requests wait for workers to return when those that are left cannot hold the model."),
        option("--rejoin", default="auto", type=click.Choice(["auto", "off"]),
               help="Take workers that come back or are new into a line that serves, where it gets much better."),
        option("--max-bandwidth", type=_Bandwidth(), metavar="RATE",
               help="How fast each worker may fetch weights: 50MB/s, 400Mbit/s."),
    ]  # fmt: skip
    return packed_options(options, LineOptions, "line", as_member)  # type: ignore[return-value]


json_progress_option = option(
    "--json", "json_progress", is_flag=True, help="Tell how loading goes as JSON, an object a line, on stderr."
)

local_option = option(
    "--local",
    default=1,
    type=click.IntRange(0, 64),
    metavar="N",
    help="How many workers to start on this machine if none is found.",
)


def sampling_options(command: Command) -> Command:
    """Adds the options of SamplingOptions; the command gets them as `sampling`."""

    @functools.wraps(command)
    def with_sampling(**given: Any) -> Any:  # noqa: ANN401 -- what click parsed
        max_tokens, stop, grammar = given.pop("max_tokens"), given.pop("stop"), given.pop("grammar_file")
        seed = given.pop("seed")
        params = SamplingParams(
            **{name: given.pop(name) for name in SAMPLING},
            seed=secrets.randbits(32) if seed is None else seed,
            grammar="" if grammar is None else _read_grammar(grammar),
        )
        return command(sampling=SamplingOptions(params, max_tokens, stop), **given)

    options = [
        option("--max-tokens", "-n", type=MAX_TOKENS, metavar="N",
               help="How many tokens to generate at most.  [default: to the end of the context]"),
        *(option("--" + name.replace("_", "-"), default=default, type=kind, metavar="X", help=text)
          for name, (default, kind, text) in SAMPLING.items()),
        option("--seed", type=SEED, metavar="N",
               help="The same seed gives the same text.  [default: random]"),
        option("--stop", multiple=True, metavar="TEXT", show_default=False,
               help="End when this appears; it is not printed. May be given several times."),
        option("--grammar-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
               help="A file with a GBNF grammar that the text must follow."),
    ]  # fmt: skip
    return _with_options(options, with_sampling)  # type: ignore[return-value]


MAX_TOKENS: click.ParamType[Any] = click.IntRange(min=1)
SEED: click.ParamType[Any] = click.IntRange(0, 0xFFFF_FFFF)

SAMPLING: dict[str, tuple[float, click.ParamType[Any], str]] = {
    "temperature": (0.8, click.FloatRange(0), "How freely to choose; 0: always the likeliest token."),
    "top_k": (40, click.IntRange(min=-1), "Choose among this many likeliest tokens; 0: all."),
    "top_p": (
        0.95,
        click.FloatRange(0, 1),
        "Choose among the likeliest tokens that make up this share; 1: all.",
    ),
    "min_p": (
        0.05,
        click.FloatRange(0, 1),
        "Leave out tokens below this share of the likeliest one's; 0: none.",
    ),
    "repeat_penalty": (
        1.0,
        click.FloatRange(0, min_open=True),
        "Divides logits of tokens that were there; 1: off.",
    ),
    "frequency_penalty": (
        0.0,
        click.FloatRange(-100, 100),
        "Taken off a logit for each time its token was there.",
    ),
    "presence_penalty": (0.0, click.FloatRange(-100, 100), "Taken off the logits of tokens that were there."),
    "repeat_last_n": (64, click.IntRange(min=-1), "How many last tokens the penalties look at; -1: all."),
}
"""By the names of SamplingParams: llama-server's defaults and meanings."""


def _join(cluster: Cluster | None) -> None:
    """Raises UserError where this computer cannot become a member."""
    if cluster is None:
        return
    try:
        if join(cluster):
            say(f"this computer is now a member of cluster {cluster.fingerprint}")
    except (SecretFileError, OtherClusterError) as error:
        raise UserError(str(error)) from None


def packed_options(
    options: list[Callable[[Any], Any]], kind: type, name: str, command: Callable[..., Any]
) -> Callable[..., Any]:
    """Adds options that are the fields of a dataclass, of that `kind`; the command gets one as `name`."""
    names = [each.name for each in fields(kind)]

    @functools.wraps(command)
    def with_value(**given: Any) -> Any:  # noqa: ANN401 -- what click parsed
        value = kind(**{each: given.pop(each) for each in names})
        return command(**{name: value}, **given)

    return _with_options(options, with_value)


def _with_options(options: list[Callable[[Any], Any]], command: Callable[..., Any]) -> Callable[..., Any]:
    for add in reversed(options):
        command = add(command)
    return command


def _read_grammar(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_GRAMMAR_BYTES:
            raise click.UsageError(f"{path} is larger than {_MAX_GRAMMAR_BYTES >> 20} MiB: that is no grammar")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8 text: that is no grammar") from None
