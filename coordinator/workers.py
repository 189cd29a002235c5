# SPDX-License-Identifier: MIT
"""Who is there: workers as the coordinator came to know them. Plain values, made by `control` (what a worker says of
itself) and `discovery` (whether it can take part), read by the planner and by people.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.errors import CaravanError
from native import LayerRange
from protos.last_words import WorkerEnd


@dataclass(frozen=True, slots=True)
class BuildVersions:
    """The engine a worker runs. A mesh runs one."""

    caravan: str
    llama_cpp_python: str
    llama_cpp: str
    ggml: str


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """A worker's device as llama.cpp names it; `kind` is "cpu", "gpu", "integrated_gpu", "accelerator" or "unknown".
    Bytes are as of the moment it was asked.

    Attributes:
        free_bytes: For this worker, within its own limits.
        shared_free_bytes: For all workers on the device together.
        host_free_bytes: Of system memory beside the device, for experts that do not fit there.
    """

    name: str
    description: str
    backend: str
    kind: str
    free_bytes: int
    total_bytes: int
    shared_free_bytes: int
    host_free_bytes: int = 0

    @property
    def is_cpu(self) -> bool:
        """Whether its memory is the machine's own."""
        return self.kind == "cpu"


@dataclass(frozen=True, slots=True)
class StageMemory:
    """Bytes of one stage by purpose, wherever they lie.

    Attributes:
        host_bytes: Of the three together, how much counts as system memory beside the device: what lies there though
            the device is another, and on a CPU the experts that were moved there (`n_cpu_moe`).
    """

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int = 0
    host_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes

    @property
    def device_bytes(self) -> int:
        """What lies on the device."""
        return self.total_bytes - self.host_bytes


@dataclass(frozen=True, slots=True)
class LoadedStage:
    """A stage that a worker holds for some session; a warm one is of none, and goes when anything else is to load."""

    session_id: str
    epoch: int
    layers: LayerRange
    memory: StageMemory
    is_serving: bool
    is_warm: bool = False


@dataclass(frozen=True, slots=True)
class BenchmarkedRun:
    """How long a layer range takes on a worker.

    Attributes:
        points: Tokens in a batch and the seconds of one step, by ascending batch; sizes that would have taken too long
            are not among them.
    """

    layers: LayerRange
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """Runs measured on a worker, now or (`was_remembered`) some time before."""

    runs: tuple[BenchmarkedRun, ...]
    was_remembered: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A connection as gRPC sees it: an empty message and its answer, and bytes one way."""

    round_trip_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class CardFigures:
    """A card under a worker as its driver sees it, whoever uses it; None: not told.

    Attributes:
        device: llama.cpp's name of it.
        utilisation: Of its compute units, 0 to 1.
        power_limit_w: What it may draw.
    """

    device: str
    used_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


@dataclass(frozen=True, slots=True)
class FoundWorker:
    """A worker that answered.

    Attributes:
        name: Unique in the mesh.
        instance_id: New with every start of its process.
        address: Where it was reached, ``host:port``.
        host_name: Its machine's name, as it says.
        loaded: Stages it holds already.
        telemetry: Of each card under its device.
        weights_port: Where it gives and takes weights, on the host of its address; 0: nowhere.
        held_tensors: Of the model that it was offered, a bit for each as in the contract.
        ends: How its processes before this one ended, the latest last.
    """

    name: str
    instance_id: str
    address: str
    host_name: str
    contract_version: str
    versions: BuildVersions
    device: WorkerDevice
    loaded: tuple[LoadedStage, ...] = ()
    telemetry: tuple[CardFigures, ...] = ()
    weights_port: int = 0
    held_tensors: bytes = b""
    ends: tuple[WorkerEnd, ...] = ()

    @property
    def is_serving(self) -> bool:
        """Whether some coordinator is using it now."""
        return any(stage.is_serving for stage in self.loaded)


@dataclass(frozen=True, slots=True)
class LeftOutWorker:
    """A worker, or an address, that cannot take part.

    Attributes:
        name: Its name; the address where that is not known.
        error: Why, as the error to raise where it was asked for by name.
    """

    name: str
    address: str
    error: CaravanError

    @property
    def reason(self) -> str:
        """Why, as a sentence."""
        return str(self.error)


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """What a worker has of a model: its header, and which tensors, a bit for each as in the contract."""

    has_header: bool
    held_tensors: bytes


@dataclass(frozen=True, slots=True)
class Health:
    """Which session and epoch a worker has; none: "" and 0."""

    session_id: str
    epoch: int
