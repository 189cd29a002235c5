# SPDX-License-Identifier: MIT
"""`hf:` references against a stand-in for the hub's HTTP interface: which file is meant, what is fetched of it, what is
told to whom, and one sentence for everything that can go wrong.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from coordinator.errors import ModelError, ModelNotFoundError, SourceError
from coordinator.weights import headers
from coordinator.weights.cancellation import Cancellation
from coordinator.weights.hub import HubFile, choose
from coordinator.weights.references import HubReference
from native import read_layout
from tests.coordinator.weights.conftest import Finder
from tests.coordinator.weights.reading import read_tensor, true_tensor
from tests.coordinator.weights.stand_in import COMMIT, Asked, Hub
from tests.models import split_model

_TENSOR = "blk.2.ffn_down.weight"


@pytest.fixture
def repository(hub: Hub, model: Path) -> Hub:
    """A hub with the model in one repository."""
    hub.repositories["llamas/tiny-GGUF"] = {"tiny-Q8_0.gguf": model.read_bytes(), "README.md": b"# Tiny"}
    return hub


def _choose(paths: list[str], wanted: str) -> list[str]:
    files = [HubFile(path, 1, "") for path in paths]
    return [file.path for file in choose(files, HubReference("llamas/tiny-GGUF", wanted))]


_MANY = ["m-Q8_0.gguf", "m-IQ4_K.gguf", "m-Q4_K.gguf", "m-Q4_K_M.gguf", "mmproj-m-Q8_0.gguf", "m.imatrix.gguf"]
_SPLIT = ["Q6_K/m-Q6_K-00002-of-00002.gguf", "Q6_K/m-Q6_K-00001-of-00002.gguf", "m-Q2_K.gguf"]


@pytest.mark.parametrize(
    ("paths", "wanted", "chosen"),
    [
        (_MANY, "", ["m-Q4_K_M.gguf"]),
        (_MANY, "q8_0", ["m-Q8_0.gguf"]),
        (_MANY, "Q4_K", ["m-Q4_K.gguf"]),
        (_MANY, "m-IQ4_K.gguf", ["m-IQ4_K.gguf"]),
        (_SPLIT, "", ["Q6_K/m-Q6_K-00001-of-00002.gguf", "Q6_K/m-Q6_K-00002-of-00002.gguf"]),
        (_SPLIT, "q6_k", ["Q6_K/m-Q6_K-00001-of-00002.gguf", "Q6_K/m-Q6_K-00002-of-00002.gguf"]),
        (_SPLIT, "m-Q6_K-00002-of-00002.gguf", ["Q6_K/m-Q6_K-00001-of-00002.gguf", "Q6_K/m-Q6_K-00002-of-00002.gguf"]),
        (_SPLIT, "Q2_K", ["m-Q2_K.gguf"]),
    ],
)
def test_a_quantisation_a_file_or_nothing_names_a_model(paths: list[str], wanted: str, chosen: list[str]) -> None:
    assert _choose(paths, wanted) == chosen


@pytest.mark.parametrize(
    ("paths", "wanted", "kind", "says"),
    [
        (_MANY, "Q5_K_M", ModelNotFoundError, "has no Q5_K_M; it has m-IQ4_K.gguf, m-Q4_K.gguf, m-Q4_K_M.gguf, m-Q8"),
        (["a-Q8_0.gguf", "b-Q8_0.gguf"], "Q8_0", ModelError, "may be any of a-Q8_0.gguf, b-Q8_0.gguf: write hf:"),
        (["README.md"], "", ModelNotFoundError, "has no GGUF file"),
        (_SPLIT[1:], "Q6_K", ModelError, r"lacks Q6_K/m-Q6_K-00002-of-00002\.gguf"),
    ],
)
def test_what_names_no_model_or_several_is_told_with_what_is_there(
    paths: list[str], wanted: str, kind: type[ModelError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        _choose(paths, wanted)


def test_only_the_header_and_what_is_asked_for_is_fetched(
    repository: Hub, model: Path, find: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "_FIRST_BYTES", 4096)
    source = find("hf:llamas/tiny-GGUF:q8_0")
    layout, data = read_layout(model), model.read_bytes()
    n_header = min(tensor.offset_bytes for tensor in layout.tensors)
    assert (source.name, source.told_path) == ("llamas/tiny-GGUF:q8_0", "tiny-Q8_0.gguf")
    assert (source.layout.identity, source.layout.tensors) == (layout.identity, layout.tensors)
    assert [(part.n_bytes, part.n_header_bytes, part.stamp) for part in source.parts] == [(len(data), n_header, "")]
    n_fetched = repository.store.n_body_bytes
    assert n_header <= n_fetched <= 2 * n_header + 4096 < len(data) / 2
    assert source.layout.path.stat().st_blocks * 512 < len(data) / 2
    assert read_tensor(source, _TENSOR, piece=5000) == true_tensor(source, _TENSOR, data)
    (tensor,) = [tensor for tensor in layout.tensors if tensor.name == _TENSOR]
    assert repository.store.n_body_bytes - n_fetched == tensor.n_bytes
    # One request for the whole tensor: the pieces continued it.
    assert repository.store.asked[-1].bytes_from == tensor.offset_bytes


def test_the_token_is_for_the_hub_alone(
    repository: Hub, model: Path, find: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.token = "hf_secret"
    with pytest.raises(ModelNotFoundError, match="the hub has no llamas/tiny-GGUF, or does not show it to us"):
        find("hf:llamas/tiny-GGUF")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = find("hf:llamas/tiny-GGUF")
    assert read_tensor(source, _TENSOR) == true_tensor(source, _TENSOR, model.read_bytes())
    assert {asked.authorization for asked in repository.asked[1:]} == {"Bearer hf_secret"}
    assert {asked.authorization for asked in repository.store.asked} == {None}


def test_workers_are_told_where_the_hub_redirects_to_and_nothing_of_the_token(
    repository: Hub, find: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = find("hf:llamas/tiny-GGUF")
    (address,) = source.addresses()
    assert address.url.startswith(f"{repository.store.url}/blobs/llamas/tiny-GGUF/")
    assert address.url.endswith(f"?signed={repository.n_signed}")
    assert (address.n_bytes, address.tag) == (source.parts[0].n_bytes, "")
    assert address.version
    n_signed = repository.n_signed
    renewed = source.renewed(0, Cancellation())
    assert renewed.url == address.url.replace(f"?signed={n_signed}", f"?signed={n_signed + 1}")
    assert "hf_secret" not in f"{address}{renewed}{address.message()}"
    # A hub that gives the bytes itself wants the token for them.
    monkeypatch.setattr(repository, "redirects", False)
    assert find("hf:llamas/tiny-GGUF").addresses() == ()


def test_a_second_start_fetches_no_header(repository: Hub, find: Finder) -> None:
    first = find("hf:llamas/tiny-GGUF")
    repository.store.asked.clear()
    second = find("hf:llamas/tiny-GGUF")
    assert second.layout == first.layout
    assert second.version == first.version
    assert [(asked.bytes_from, asked.bytes_to) for asked in repository.store.asked] == [(0, 0)]
    second.layout.path.write_bytes(b"GGUF")
    assert find("hf:llamas/tiny-GGUF").layout == first.layout


def test_a_model_in_parts_is_one_model(hub: Hub, model: Path, tmp_path: Path, find: Finder) -> None:
    paths = split_model(model, tmp_path / "big-Q8_0")
    hub.repositories["llamas/big-GGUF"] = {f"Q8_0/{path.name}": path.read_bytes() for path in paths}
    source = find("hf:llamas/big-GGUF:Q8_0")
    assert source.layout.identity == read_layout(paths[0]).identity
    assert [part.file_name for part in source.parts] == [path.name for path in paths]
    assert {tensor.file_index for tensor in source.layout.tensors[::13]} == {0, 1, 2}
    for tensor in source.layout.tensors[::13]:
        expected = true_tensor(source, tensor.name, paths[tensor.file_index].read_bytes())
        assert read_tensor(source, tensor.name) == expected


@pytest.mark.parametrize("fault", [503, "cut", 429])
def test_what_passes_is_tried_again_from_where_it_came_to(
    repository: Hub, model: Path, find: Finder, fault: int | str
) -> None:
    repository.faults = [503, 502]
    source = find("hf:llamas/tiny-GGUF")
    repository.store.headers = {"Retry-After": "0"}
    repository.store.faults = [fault, fault]
    assert read_tensor(source, _TENSOR) == true_tensor(source, _TENSOR, model.read_bytes())
    assert not repository.store.faults


def test_what_does_not_pass_is_told(repository: Hub, find: Finder) -> None:
    source = find("hf:llamas/tiny-GGUF")
    repository.store.answers = lambda _: 500
    with pytest.raises(SourceError, match=r"tiny-GGUF/tiny-Q8_0\.gguf cannot be fetched: its server answers 500"):
        read_tensor(source, _TENSOR)
    repository.store.answers, repository.store.headers = (lambda _: 429), {"Retry-After": "3600"}
    with pytest.raises(SourceError, match="asks to wait for 3600 s"):
        read_tensor(source, _TENSOR)


def test_an_address_that_is_too_old_is_asked_for_again(repository: Hub, model: Path, find: Finder) -> None:
    source = find("hf:llamas/tiny-GGUF")
    n_signed, refused = repository.n_signed, list[Asked]()

    def forbid_once(asked: Asked) -> int | None:
        if refused:
            return None
        refused.append(asked)
        return 403

    repository.store.answers = forbid_once
    assert read_tensor(source, _TENSOR) == true_tensor(source, _TENSOR, model.read_bytes())
    assert (len(refused), repository.n_signed) == (1, n_signed + 1)
    repository.store.answers = lambda _: 403
    with pytest.raises(SourceError, match=r"the hub does not let us read hf:llamas/tiny-GGUF \(403\)"):
        read_tensor(source, _TENSOR)


def test_a_gated_model_says_what_to_do(repository: Hub, find: Finder) -> None:
    repository.gated.add("llamas/tiny-GGUF")
    with pytest.raises(SourceError, match=rf"is gated: accept its terms at {repository.url}/llamas/tiny-GGUF, then"):
        find("hf:llamas/tiny-GGUF")


def test_a_hub_that_is_not_there_is_told_unless_the_header_is_known(
    repository: Hub, find: Finder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = find("hf:llamas/tiny-GGUF")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=r"the hub \(http://127.0.0.1:9\) cannot be reached: .*; check the network"):
        find("hf:llamas/other-GGUF")
    source = find("hf:llamas/tiny-GGUF")
    assert source.layout == known.layout
    assert "going on with the header that was fetched before" in caplog.text
    with pytest.raises(SourceError, match=r"tiny-Q8_0.gguf is not on any worker, and cannot be fetched: the hub"):
        read_tensor(source, _TENSOR)


def test_offline_the_hubs_own_cache_is_all_there_is(
    hub: Hub, model: Path, find: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"is not in the hub's cache on this machine, .* \(HF_HUB_OFFLINE\)"):
        find("hf:llamas/tiny-GGUF")
    path = _put_in_hub_cache(model, "llamas/tiny-GGUF")
    source = find("hf:llamas/tiny-GGUF:Q8_0")
    assert (source.layout.path, source.told_path) == (path, str(path))
    assert not hub.asked


def test_a_file_in_the_hubs_cache_is_not_fetched(repository: Hub, model: Path, find: Finder) -> None:
    path = _put_in_hub_cache(model, "llamas/tiny-GGUF")
    assert find("hf:llamas/tiny-GGUF").told_path == str(path)
    assert not repository.store.asked


@pytest.mark.parametrize(
    "place",
    [
        ".lmstudio/models/llamas/tiny-GGUF/tiny-Q8_0.gguf",
        ".cache/lm-studio/models/llamas/tiny-GGUF/tiny-Q8_0.gguf",
        ".cache/llama.cpp/llamas_tiny-GGUF_tiny-Q8_0.gguf",
    ],
)
def test_a_file_that_another_program_has_is_not_fetched_if_it_is_as_large(
    repository: Hub, model: Path, find: Finder, place: str
) -> None:
    path = Path.home() / place
    path.parent.mkdir(parents=True)
    path.write_bytes(model.read_bytes()[:-1])
    assert find("hf:llamas/tiny-GGUF").told_path == "tiny-Q8_0.gguf"
    shutil.copy(model, path)
    n_asked = len(repository.store.asked)
    assert find("hf:llamas/tiny-GGUF").told_path == str(path)
    assert len(repository.store.asked) == n_asked


def _put_in_hub_cache(model: Path, repo_id: str) -> Path:
    """As huggingface_hub lays it: a blob, a link to it by name, and the branch's commit."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for made in (snapshot, folder / "blobs", folder / "refs"):
        made.mkdir(parents=True)
    shutil.copy(model, folder / "blobs" / "abc")
    (folder / "refs" / "main").write_text(COMMIT)
    path = snapshot / model.name
    path.symlink_to(os.path.relpath(folder / "blobs" / "abc", snapshot))
    return path
