# SPDX-License-Identifier: MIT
"""A model on a server that gives ranges: only the headers are fetched to this machine, and of the weights what a worker
asks for, while it does. From a server without ranges all of it is downloaded (`download`).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from coordinator.cache import key_of
from coordinator.errors import SourceError
from coordinator.weights.cancellation import Cancellation
from coordinator.weights.download import download
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.headers import KeptHeaders, KeptPart, fetch_header, forget, keep, recalled, remember
from coordinator.weights.http_file import HttpClient, HttpFile
from coordinator.weights.http_stream import HttpStream
from coordinator.weights.local import LocalSource
from coordinator.weights.references import UrlReference, part_names
from coordinator.weights.source import PartAddress, SourcePart, WeightReader, WeightSource


@dataclass(frozen=True, slots=True)
class RemotePart:
    """A file of a model on a server.

    Attributes:
        version: What names its bytes, where the address does not and its server tells no tag.
    """

    file_name: str
    file: HttpFile
    version: str = ""


@dataclass(frozen=True, slots=True)
class RemoteSource(WeightSource):
    """Reads ranges of files on a server, as they are asked for.

    Attributes:
        remote: A file for each of `parts`.
        headers_key: Of headers that are of no use any more once it is closed.
    """

    client: HttpClient
    remote: Sequence[RemotePart]
    headers_key: str | None

    def reader(self, cancellation: Cancellation) -> WeightReader:
        return _RemoteReader([part.file for part in self.remote], cancellation)

    def addresses(self) -> tuple[PartAddress, ...]:
        told = [self._address(part) for part in range(len(self.parts))]
        return tuple(address for address in told if address is not None) if None not in told else ()

    def renewed(self, part: int, cancellation: Cancellation) -> PartAddress:
        self.remote[part].file.renew(cancellation)
        address = self._address(part)
        if address is None:
            raise SourceError(f"{self.remote[part].file.shown} takes more than an address by now")
        return address

    def _address(self, part: int) -> PartAddress | None:
        file, about = self.remote[part].file, self.parts[part]
        url, facts = file.address(), file.facts
        if url is None or facts is None:
            return None
        return PartAddress(url, about.n_bytes, "" if file.is_pinned else facts.tag, self.remote[part].version)

    def close(self) -> None:
        self.client.close()
        if self.headers_key is not None:
            forget(self.headers_key)


class _RemoteReader(WeightReader):
    def __init__(self, files: Sequence[HttpFile], cancellation: Cancellation) -> None:
        self._files = files
        self._cancellation = cancellation
        self._streams: dict[int, HttpStream] = {}

    def read_into(self, part: int, offset: int, view: memoryview, *, until: int) -> None:
        if part not in self._streams:
            self._streams[part] = HttpStream(self._files[part], self._cancellation)
        self._streams[part].read_into(offset, view, until=until)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


@dataclass(frozen=True, slots=True)
class UnreachableSource(WeightSource):
    """Whose header is known from before, and of whose weights nothing can be read now; `why`."""

    why: str

    def reader(self, cancellation: Cancellation) -> WeightReader:
        return _NoReader(self)


class _NoReader(WeightReader):
    def __init__(self, source: UnreachableSource) -> None:
        self._source = source

    def read_into(self, part: int, offset: int, view: memoryview, *, until: int) -> None:
        file_name = self._source.parts[part].file_name
        raise SourceError(
            f"{file_name} is not on any worker, and cannot be fetched: {self._source.why}", retry_safe=True
        )

    def close(self) -> None:
        pass


def open_remote(
    name: str, reference: str, client: HttpClient, parts: Sequence[RemotePart], errand: Errand
) -> WeightSource:
    """The source of a model in these files; takes the client over. Blocks.

    Args:
        reference: What a person wrote, under which it is found again without a network.

    Raises:
        CaravanError: It cannot be reached, read or used.
    """
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(client.close)
        for part in parts:
            if Path(part.file_name).name != part.file_name:
                raise SourceError(f"a part of {name} is called {part.file_name!r}, which is no name for a file")
        facts = [part.file.facts or part.file.ask(errand.cancellation) for part in parts]
        if not all(fact.has_ranges for fact in facts):
            paths = [download(part.file_name, part.file, errand) for part in parts]
            return LocalSource.open(name, paths[0])
        sizes = [fact.n_bytes or 0 for fact in facts]
        versions = [part.version or fact.tag for part, fact in zip(parts, facts, strict=True)]
        addresses = ["" if part.version else public(part.file.url) for part in parts]
        # Who does not say when a file changed is asked for its header each time.
        key = key_of(addresses, sizes, versions) if all(versions) else secrets.token_hex(16)
        kept = recalled(key)
        if kept is None:
            new = [KeptPart(part.file_name, size, 0) for part, size in zip(parts, sizes, strict=True)]
            kept = _fetched(key, new, {part.file_name: part.file for part in parts}, errand)
        cleanup.pop_all()
        told_path = parts[0].file_name
        if not all(versions):
            return RemoteSource(name, kept.layout, _parts(kept), told_path, "", client, parts, key)
        remember(reference, key)
        return RemoteSource(name, kept.layout, _parts(kept), told_path, key, client, parts, None)


def open_kept(name: str, kept: KeptHeaders, why: str) -> WeightSource:
    """The source of a model whose server cannot be reached: its header is here, and workers may have its weights."""
    return UnreachableSource(name, kept.layout, _parts(kept), kept.parts[0].file_name, kept.key, why)


def _parts(kept: KeptHeaders) -> list[SourcePart]:
    return [SourcePart(part.file_name, part.n_bytes, part.n_header_bytes) for part in kept.parts]


def _fetched(key: str, parts: Sequence[KeptPart], files: dict[str, HttpFile], errand: Errand) -> KeptHeaders:
    def write(path: Path, part: KeptPart) -> int:
        file = files[part.file_name]
        errand.tell(FetchStep(f"reading the header of {file.shown}"))
        with contextlib.closing(HttpStream(file, errand.cancellation)) as stream:
            return fetch_header(
                path,
                part.n_bytes,
                file.shown,
                lambda offset, view: stream.read_into(offset, view, until=offset + len(view)),
                is_first=part is parts[0],
            )

    return keep(key, parts, write)


def public(url: str) -> str:
    """An address without what gives access: no name and password, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def url_parts(reference: UrlReference, client: HttpClient) -> list[RemotePart]:
    """The files of a model by the address of one of them."""
    names = part_names(reference.file_name)
    if len(names) == 1:
        return [RemotePart(names[0], HttpFile(client, reference.url, public(reference.url)))]
    parts = urlsplit(reference.url)
    folder = parts.path.rpartition("/")[0]
    urls = [urlunsplit(parts._replace(path=f"{folder}/{quote(name)}")) for name in names]
    return [RemotePart(name, HttpFile(client, url, public(url))) for name, url in zip(names, urls, strict=True)]
