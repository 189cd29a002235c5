# SPDX-License-Identifier: MIT
"""What every source of weights is: a model's header on this machine, and its bytes wherever they are. A module for each
kind makes them; `offering` and `giving` use them without knowing which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from coordinator.errors import SourceError
from coordinator.weights.cancellation import Cancellation
from native import ModelLayout
from protos.caravan.v1 import weights_pb2


@dataclass(frozen=True, slots=True)
class SourcePart:
    """One file of a model.

    Attributes:
        file_name: Without folders.
        n_header_bytes: Before the first tensor's.
        stamp: As in ModelPart of the contract; empty: it is no local file.
    """

    file_name: str
    n_bytes: int
    n_header_bytes: int
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class PartAddress:
    """Where workers may read a part themselves; see WeightAddress of the contract. Its URL may be as good as a key: it
    is for nobody but them, and for no log."""

    url: str = field(repr=False)
    n_bytes: int
    tag: str
    version: str

    def message(self) -> weights_pb2.WeightAddress:
        """As they are told it."""
        return weights_pb2.WeightAddress(url=self.url, n_bytes=self.n_bytes, tag=self.tag, version=self.version)


class WeightReader(ABC):
    """What one thread reads a source with; a context manager that closes it."""

    def descriptor(self, part: int) -> int | None:
        """Of the open file, for sendfile; None where there is none. Raises as `read_into`."""
        return None

    @abstractmethod
    def read_into(self, part: int, offset: int, view: memoryview, *, until: int) -> None:
        """Fills `view` with the part's bytes from `offset` on; those before `until` may be asked for next.

        Raises:
            ModelError: They cannot be read, or are not those whose header was read any more.
            CancelledError: It was called off.
        """

    def check(self, part: int) -> None:  # noqa: B027 -- no file, no change to look for
        """Looks whether the part is still what it was. Raises SourceError."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what is open; safe to repeat."""

    def __enter__(self) -> WeightReader:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class WeightSource(ABC):
    """Where a model's weights come from.

    Attributes:
        name: What to call the model.
        layout: Of files on this machine, which may hold the headers alone and be a hole where the weights are.
        told_path: Where workers may look for the model's file, too; of one that is on a server its name alone.
        version: Equal only for the very same bytes: under it, hashes are remembered; empty: nobody can tell.
    """

    name: str
    layout: ModelLayout
    parts: Sequence[SourcePart]
    told_path: str
    version: str

    @abstractmethod
    def reader(self, cancellation: Cancellation) -> WeightReader:
        """A reader for one thread, to be closed there."""

    def addresses(self) -> tuple[PartAddress, ...]:
        """Where workers may read all parts themselves, in order; none where some of it takes more than an address."""
        return ()

    def renewed(self, part: int, cancellation: Cancellation) -> PartAddress:
        """Where they may read that part by now, since its server refuses the address that was told. Blocks.

        Raises:
            SourceError, ModelNotFoundError: Nowhere any more.
        """
        raise SourceError(f"{self.parts[part].file_name} has no address")

    def close(self) -> None:  # noqa: B027 -- most hold nothing open
        """Gives back what all readers share; safe to repeat."""
