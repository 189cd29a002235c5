# SPDX-License-Identifier: MIT
"""Models by their address, on servers with and without ranges, and on such as lie."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from coordinator.errors import CancelledError, ModelError, ModelNotFoundError, SourceError
from coordinator.weights import headers
from coordinator.weights.errand import FetchStep
from coordinator.weights.source import PartAddress
from coordinator.weights.sources import open_source
from native import read_layout
from tests.coordinator.weights.conftest import Finder
from tests.coordinator.weights.reading import read_tensor, true_tensor
from tests.coordinator.weights.stand_in import Asked, FileServer
from tests.models import split_model

_TENSOR = "blk.2.ffn_down.weight"


@pytest.fixture
def served(server: FileServer, model: Path) -> FileServer:
    """A server with the model."""
    server.files["/models/tiny.gguf"] = model.read_bytes()
    return server


def test_a_model_is_read_in_ranges_where_its_server_gives_them(served: FileServer, model: Path, find: Finder) -> None:
    source = find(f"{served.url}/models/tiny.gguf?key=secret")
    data = model.read_bytes()
    assert (source.name, source.told_path, source.layout.identity) == ("tiny", "tiny.gguf", read_layout(model).identity)
    n_fetched = served.n_body_bytes
    assert read_tensor(source, _TENSOR) == true_tensor(source, _TENSOR, data)
    assert served.n_body_bytes - n_fetched == len(true_tensor(source, _TENSOR, data))


def test_a_model_in_parts_is_found_by_any_of_their_names(
    server: FileServer, tmp_path: Path, model: Path, find: Finder
) -> None:
    paths = split_model(model, tmp_path / "big model")
    server.files.update({f"/a b/{path.name}": path.read_bytes() for path in paths})
    source = find(f"{server.url}/a%20b/big%20model-00002-of-00003.gguf")
    assert (source.name, source.layout.identity) == ("big model", read_layout(paths[0]).identity)
    assert len(source.parts) == 3


def test_a_file_that_changes_on_its_server_is_no_source_any_more(served: FileServer, model: Path, find: Finder) -> None:
    source = find(f"{served.url}/models/tiny.gguf")
    served.files["/models/tiny.gguf"] = model.read_bytes()[:-1] + b"x"
    with pytest.raises(SourceError, match=r"/models/tiny\.gguf changed on its server"):
        read_tensor(source, _TENSOR)
    again = find(f"{served.url}/models/tiny.gguf")
    assert again.version != source.version


def test_whoever_has_a_key_in_an_address_does_not_read_it_in_an_error(served: FileServer, find: Finder) -> None:
    served.answers = lambda _: 403
    with pytest.raises(SourceError, match=r"does not let us read it \(403\)") as refused:
        find(f"{served.url.replace('//', '//me:hush@')}/models/tiny.gguf?key=secret")
    assert "secret" not in str(refused.value)
    assert "hush" not in str(refused.value)
    served.answers = lambda _: None
    with pytest.raises(ModelNotFoundError, match=r"there is no http://.*/other\.gguf \(its server answers 404\)"):
        find(f"{served.url}/other.gguf")


def test_workers_are_told_an_address_unless_it_has_a_password_in_it(
    served: FileServer, model: Path, find: Finder
) -> None:
    url = f"{served.url}/models/tiny.gguf?key=of-this-file"
    size = model.stat().st_size
    assert find(url).addresses() == (PartAddress(url, size, served.etag("/models/tiny.gguf"), ""),)
    assert find(url.replace("//", "//me:hush@")).addresses() == ()
    assert find(model).addresses() == ()


def test_a_server_that_redirects_for_ever_is_left(served: FileServer, find: Finder) -> None:
    served.answers, served.headers = (lambda _: 302), {"Location": "/models/tiny.gguf"}
    with pytest.raises(SourceError, match="redirects more than 5 times"):
        find(f"{served.url}/models/tiny.gguf")


def test_a_server_without_ranges_is_downloaded_from_once(
    served: FileServer, model: Path, find: Finder, caplog: pytest.LogCaptureFixture
) -> None:
    served.has_ranges = False
    url = f"{served.url}/models/tiny.gguf"
    source = find(url)
    assert Path(source.told_path).read_bytes() == model.read_bytes()
    assert find.told[0].message.startswith(f"downloading all of {url}, ")
    assert "because its server gives no parts of it" in find.told[0].message
    assert find.told[0].total_bytes == model.stat().st_size
    n_fetched = served.n_body_bytes
    assert find(url).told_path == source.told_path
    # The question whether it changed is answered with the file, of which nobody reads more than has come.
    served.answers = lambda _: 500
    assert find(url).told_path == source.told_path
    assert f"going on with {source.told_path}" in caplog.text
    assert n_fetched >= model.stat().st_size


def test_a_download_goes_on_where_it_was_broken_off_if_the_server_can(
    served: FileServer, model: Path, find: Finder
) -> None:
    def only_from_the_middle(asked: Asked) -> None:
        served.has_ranges = bool(asked.bytes_from)

    served.answers = only_from_the_middle
    served.faults = [0, "cut"]
    source = find(f"{served.url}/models/tiny.gguf")
    assert Path(source.told_path).read_bytes() == model.read_bytes()
    assert served.asked[-1].bytes_from == pytest.approx(model.stat().st_size / 2, abs=1)


def test_a_download_that_is_broken_off_is_begun_anew_if_the_server_cannot_go_on(
    served: FileServer, model: Path, find: Finder
) -> None:
    served.has_ranges = False
    served.faults = [0, "cut"]
    source = find(f"{served.url}/models/tiny.gguf")
    assert Path(source.told_path).read_bytes() == model.read_bytes()
    assert sorted(path.name for path in Path(source.told_path).parent.glob("*.partial*")) == []


@pytest.mark.parametrize("body", [b"<html>no model</html>", b"GGUF" + bytes(60), b"GGUF\x03\0\0\0" + b"\xff" * 60])
def test_what_is_no_gguf_is_told_by_its_address(server: FileServer, find: Finder, body: bytes) -> None:
    server.files["/a.gguf"] = body * 100
    with pytest.raises(
        ModelError, match=r"http://127\.0\.0\.1:\d+/a\.gguf: (this is not a GGUF|the GGUF header is damaged)"
    ):
        find(f"{server.url}/a.gguf")


def test_a_header_without_end_is_read_to_a_limit(
    server: FileServer, find: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_FIRST_BYTES", 1 << 10)
    monkeypatch.setattr(headers, "MAX_HEADER_BYTES", 64 << 10)
    # An array of 2^29 strings, of which each is empty.
    begun = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 1 << 29)
    server.files["/a.gguf"] = begun + bytes(4 << 20)
    with pytest.raises(ModelError, match="the GGUF header is damaged or cut off"):
        find(f"{server.url}/a.gguf")
    assert server.n_body_bytes < 200 << 10


async def test_who_waits_for_a_download_can_call_it_off(served: FileServer) -> None:
    served.has_ranges = False
    served.files["/models/tiny.gguf"] = bytes(64 << 20)

    def stop(step: FetchStep) -> None:
        if step.done_bytes:
            raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        await open_source(f"{served.url}/models/tiny.gguf", stop, max_bytes_per_s=1 << 20)
    n_sent = served.n_body_bytes
    await asyncio.sleep(0.3)
    assert served.n_body_bytes - n_sent < 4 << 20
