# SPDX-License-Identifier: MIT
"""`ollama:` references: a model by the name that Ollama has for it, in the files that Ollama keeps on this machine.

Ollama is not asked; its manifests and blobs are read. Source of names and folders: types/model/name.go and
manifest/paths.go of ollama.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from coordinator.errors import ModelError, ModelNotFoundError, SourceError

_HOST, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_WORD = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1 << 20

_MODEL = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"

_SYSTEM_FOLDER = Path("/usr/share/ollama/.ollama/models")
"""Of the service that Ollama's installer makes on Linux."""


def ollama_file(name: str) -> Path:
    """The GGUF of that model.

    Raises:
        ModelNotFoundError: Ollama has none of that name here.
        ModelError: It is no name, or the model is more than a GGUF.
        SourceError: Ollama's files may not be read.
    """
    relative = _manifest_path(name)
    folders = _folders()
    try:
        for folder in folders:
            if (folder / "manifests" / relative).is_file():
                return _blob(name, folder, folder / "manifests" / relative)
    except PermissionError as error:
        raise SourceError(
            f"Ollama has {name} in {error.filename}, which this user may not read: add the user to Ollama's group, or "
            "give the path of a copy"
        ) from None
    known = _known(folders)
    raise ModelNotFoundError(
        f"Ollama has no {name} on this machine: "
        + (f"it has {', '.join(known)}" if known else f"`ollama pull {name}` brings it")
    )


def _manifest_path(name: str) -> Path:
    """Of [HOST/][NAMESPACE/]MODEL[:TAG], below the manifests."""
    before, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        before, tag = name, _TAG
    words = before.split("/")
    defaults = [_HOST, _NAMESPACE][: max(0, 3 - len(words))]
    # A host alone without a namespace does not occur; two words are namespace and model.
    words = [*defaults, *words, tag]
    host_words = words[0].split(":")
    if len(words) != 4 or not all(map(_WORD.fullmatch, [*host_words, *words[1:]])) or len(host_words) > 2:
        raise ModelError(f"ollama:{name} is no name of Ollama's: write it as `ollama list` does, such as llama3.2:1b")
    return Path(*words)


def _blob(name: str, folder: Path, manifest: Path) -> Path:
    try:
        with manifest.open("rb") as file:
            layers = json.loads(file.read(_MAX_MANIFEST_BYTES))["layers"]
        kinds = [(str(layer["mediaType"]), str(layer["digest"])) for layer in layers]
    except (ValueError, LookupError, TypeError):
        raise ModelError(
            f"Ollama's manifest of {name} ({manifest}) cannot be read: `ollama pull {name}` mends it"
        ) from None
    digests = [digest for kind, digest in kinds if kind == _MODEL]
    if any(kind == _ADAPTER for kind, _ in kinds):
        raise ModelError(f"ollama:{name} has an adapter beside its model, and adapters cannot be applied: give a GGUF")
    if len(digests) != 1 or not _DIGEST.fullmatch(digests[0]):
        raise ModelError(f"ollama:{name} is not one GGUF file: give the path of a GGUF")
    path = folder / "blobs" / digests[0].replace(":", "-")
    if not path.is_file():
        raise ModelNotFoundError(f"Ollama knows {name}, and its file {path} is missing: `ollama pull {name}` mends it")
    return path


def _known(folders: list[Path]) -> list[str]:
    """Names of what is there, as one would write them."""
    names = []
    for folder in folders:
        manifests = folder / "manifests"
        try:
            for path in sorted(manifests.glob("*/*/*/*")):
                host, namespace, model, tag = path.relative_to(manifests).parts
                prefix = "" if (host, namespace) == (_HOST, _NAMESPACE) else f"{host}/{namespace}/"
                names.append(f"ollama:{prefix}{model}:{tag}")
        except OSError:
            continue
    return names[:12]


def _folders() -> list[Path]:
    given = os.environ.get("OLLAMA_MODELS")
    return [Path(given)] if given else [Path.home() / ".ollama" / "models", _SYSTEM_FOLDER]
