# SPDX-License-Identifier: MIT
"""What a person may write for a model, and how llama.cpp names the files of one that is split. Pure.

demo                          the small model inside this package
model.gguf                    a path; of a split model any of its parts
https://host/model.gguf       a file on a server
hf:owner/repo[:QUANT]         Hugging Face's hub: the file with that quantisation in its name, or
hf:owner/repo:file.gguf       that file
ollama:llama3.2:1b            what Ollama has on this machine
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from coordinator.errors import ModelError

DEMO = "demo"

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<total>\d{5})\.gguf")
"""llama.cpp's name for a part of a split model (llama_split_path)."""

_FILE_NAME = re.compile(r"[^/\\\0.][^/\\\0]{0,199}\.gguf", re.IGNORECASE)

_MAX_PARTS = 1000
"""A model of a terabyte in parts of a gigabyte."""

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:[:/](?P<wanted>[^:]+))?", re.ASCII)
_HUB_HOST = "huggingface.co"
_HUB_PAGE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/(?:blob|resolve)/(?P<revision>[^/]+)/(?P<file>.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileReference:
    """A path, or "demo"."""

    path: str | Path


@dataclass(frozen=True, slots=True)
class UrlReference:
    """A file on a server; of a split model the first."""

    url: str

    @property
    def file_name(self) -> str:
        """As in the address, where it is that of a GGUF."""
        name = PurePosixPath(unquote(urlsplit(self.url).path)).name
        return name if _FILE_NAME.fullmatch(name) else "model.gguf"


@dataclass(frozen=True, slots=True)
class HubReference:
    """A model on a hub.

    Attributes:
        wanted: A quantisation, or a file; empty: whatever is usual.
        revision: A branch, a tag or a commit; None: the newest.
    """

    repo_id: str
    wanted: str = ""
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class OllamaReference:
    """A model as Ollama calls it."""

    name: str


Reference: TypeAlias = FileReference | UrlReference | HubReference | OllamaReference


def parse_reference(text: str | Path) -> Reference:
    """What is meant.

    Raises:
        ModelError: It begins like a reference and is none.
    """
    if isinstance(text, Path):
        return FileReference(text)
    scheme, _, rest = text.partition(":")
    if scheme in ("http", "https"):
        return _parse_url(text)
    if scheme == "hf":
        match = _HUB.fullmatch(rest)
        if match is None:
            raise ModelError(f"{text} is no model on the hub: write hf:OWNER/REPO, hf:OWNER/REPO:QUANT or :FILE.gguf")
        return HubReference(match["repo"], match["wanted"] or "")
    if scheme == "ollama":
        if not rest:
            raise ModelError("ollama: names no model: write it as `ollama list` does, such as ollama:llama3.2:1b")
        return OllamaReference(rest)
    return FileReference(text)


def _parse_url(text: str) -> Reference:
    try:
        url = urlsplit(text)
        has_host = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        has_host = False
    if not has_host:
        raise ModelError(f"{text} is no address: write https://HOST/PATH/model.gguf")
    page = _HUB_PAGE.fullmatch(unquote(url.path))
    if url.hostname == _HUB_HOST and page is not None:
        return HubReference(page["repo"], page["file"], page["revision"])
    return UrlReference(text)


def name_of(reference: Reference) -> str:
    """What to call the model; nothing is looked up."""
    if isinstance(reference, FileReference):
        return stem_of(Path(reference.path).name)
    if isinstance(reference, UrlReference):
        return stem_of(reference.file_name)
    if isinstance(reference, OllamaReference):
        return reference.name
    if reference.wanted.lower().endswith(".gguf"):
        return stem_of(PurePosixPath(reference.wanted).name)
    return reference.repo_id + (f":{reference.wanted}" if reference.wanted else "")


def stem_of(file_name: str) -> str:
    """A file's name without ending, and without the number of a part."""
    split = _SPLIT.fullmatch(file_name)
    return split["stem"] if split else PurePosixPath(file_name).stem


def part_names(file_name: str) -> list[str]:
    """The names of all parts of the model that this file is, or is a part of.

    Raises:
        ModelError: There cannot be so many.
    """
    split = _SPLIT.fullmatch(file_name)
    if split is None:
        return [file_name]
    total = int(split["total"])
    if not 1 <= total <= _MAX_PARTS:
        raise ModelError(f"{file_name} would be one of {total} files; a model has at most {_MAX_PARTS}")
    return [f"{split['stem']}-{number:05}-of-{total:05}.gguf" for number in range(1, total + 1)]
