# SPDX-License-Identifier: MIT
"""`hf:` references: which files of which repository are meant, and where they are: in the hub's own cache on this
machine, in another program's, or on the hub. The one module that knows huggingface_hub, which brings token, mirror
(HF_ENDPOINT), offline mode (HF_HUB_OFFLINE) and cache as its users have set them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from coordinator.errors import CaravanError, ModelError, ModelNotFoundError, SourceError
from coordinator.weights.errand import Errand, FetchStep
from coordinator.weights.headers import what_was
from coordinator.weights.http_file import HttpError, HttpFile, http_client
from coordinator.weights.local import LocalSource
from coordinator.weights.other_programs import hub_file_elsewhere
from coordinator.weights.patience import Patience, wait_asked_for
from coordinator.weights.references import HubReference, part_names
from coordinator.weights.remote import RemotePart, open_kept, open_remote
from coordinator.weights.source import WeightSource
from protos.http_ranges import PassingError

_LOG = logging.getLogger(__name__)

_USUAL = "Q4_K_M"
"""Taken where no quantisation is asked for, as llama.cpp's -hf does; without it the first file."""

_NO_MODEL = ("mmproj", "imatrix")
"""In the names of GGUF files that are no language model: projectors of images, statistics."""

_SHOWN = 12
"""Files that a sentence lists."""

_ASK_TIMEOUT_S = 20.0
_TRIES = 3
_TOO_MANY = 429


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; `version` names its bytes."""

    path: str
    n_bytes: int
    version: str


def open_hub(name: str, text: str, reference: HubReference, errand: Errand) -> WeightSource:
    """The source of a model on the hub; blocks.

    Args:
        text: The reference as it was written.

    Raises:
        CaravanError: It is not there, may not be read, or cannot be reached.
    """
    errand.tell(FetchStep(f"asking the hub for {reference.repo_id}"))
    try:
        return _open_online(name, text, reference, errand)
    except SourceError as error:
        if not error.retry_safe:
            raise
        path = _in_cache(reference)
        if path is not None:
            _LOG.log(_offline_level(), "%s; going on with %s", error, path)
            return LocalSource.open(name, path)
        kept = what_was(text)
        if kept is None:
            raise
        _LOG.log(_offline_level(), "%s; going on with the header that was fetched before", error)
        return open_kept(name, kept, str(error))


def _offline_level() -> int:
    """Who has asked for it needs no warning."""
    return logging.INFO if constants.HF_HUB_OFFLINE else logging.WARNING


def _open_online(name: str, text: str, reference: HubReference, errand: Errand) -> WeightSource:
    revision, files = _list_files(reference, errand)
    chosen = choose(files, reference)
    path = _on_disk(reference.repo_id, chosen, revision)
    if path is not None:
        return LocalSource.open(name, path)
    client = http_client()
    parts = [
        RemotePart(
            PurePosixPath(file.path).name,
            HttpFile(
                client,
                hf_hub_url(reference.repo_id, file.path, revision=revision, endpoint=constants.ENDPOINT),
                f"{reference.repo_id}/{file.path}",
                {str(key): str(value) for key, value in build_hf_headers().items()},
                is_pinned=True,
                explain=lambda status, headers: _explain(reference.repo_id, status, headers),
            ),
            file.version,
        )
        for file in chosen
    ]
    return open_remote(name, text, client, parts, errand)


def _list_files(reference: HubReference, errand: Errand) -> tuple[str, list[HubFile]]:
    """The commit, and the files in it."""
    repo_id = reference.repo_id
    patience = Patience(f"hf:{repo_id}", _unreachable, errand.cancellation, _TRIES)
    while True:
        try:
            info = HfApi(endpoint=constants.ENDPOINT).model_info(
                repo_id, revision=reference.revision, files_metadata=True, timeout=_ASK_TIMEOUT_S
            )
        except (OfflineModeIsEnabled, LocalEntryNotFoundError):
            raise SourceError(
                f"hf:{repo_id} is not in the hub's cache on this machine, and the hub is not asked (HF_HUB_OFFLINE)",
                retry_safe=True,
            ) from None
        except HFValidationError as error:
            raise ModelError(f"hf:{repo_id} is no repository: {error}") from None
        except HfHubHTTPError as error:
            patience.bear(_passing_or_raise(repo_id, error, reference.revision))
            continue
        except HttpError as error:
            patience.bear(error)
            continue
        files = [
            HubFile(each.rfilename, each.size or 0, (each.lfs.sha256 if each.lfs else each.blob_id) or "")
            for each in info.siblings or ()
        ]
        return info.sha or reference.revision or "main", files


def choose(files: Sequence[HubFile], reference: HubReference) -> list[HubFile]:
    """The files of the model that is meant, in order.

    Raises:
        ModelNotFoundError: There is none.
        ModelError: There are several, or a part is missing.
    """
    wanted, repo_id = reference.wanted, reference.repo_id
    models = _models(files)
    if not models:
        raise ModelNotFoundError(
            f"hf:{repo_id} has no GGUF file: look for a repository of the model with GGUF in its name"
        )
    if wanted.lower().endswith(".gguf"):
        matching = [path for path in models if wanted in (path, PurePosixPath(path).name)] or [
            path for path in models if PurePosixPath(wanted).name in part_names(PurePosixPath(path).name)
        ]
    elif wanted:
        matching = [path for path in models if _has_quantisation(path, wanted)]
    else:
        matching = ([path for path in models if _has_quantisation(path, _USUAL)] or list(models))[:1]
    if not matching:
        raise ModelNotFoundError(f"hf:{repo_id} has no {wanted}; it has {_listed(models)}")
    if len(matching) > 1:
        raise ModelError(
            f"hf:{repo_id}:{wanted} may be any of {_listed(matching)}: write hf:{repo_id}:FILE with one of them"
        )
    return _parts(models[matching[0]], files, repo_id)


def _models(files: Sequence[HubFile]) -> dict[str, HubFile]:
    """Files that models begin with, by path, in the order of their names."""
    models = {}
    for file in sorted(files, key=lambda file: file.path):
        name = PurePosixPath(file.path).name
        is_model = name.lower().endswith(".gguf") and not any(word in name.lower() for word in _NO_MODEL)
        if is_model and part_names(name)[0] == name:
            models[file.path] = file
    return models


def _parts(first: HubFile, files: Sequence[HubFile], repo_id: str) -> list[HubFile]:
    by_path = {file.path: file for file in files}
    path = PurePosixPath(first.path)
    names = [str(path.with_name(name)) for name in part_names(path.name)]
    missing = [name for name in names if name not in by_path]
    if missing:
        raise ModelError(f"hf:{repo_id} lacks {missing[0]}, a part of {first.path}: choose another file")
    return [by_path[name] for name in names]


def _has_quantisation(path: str, wanted: str) -> bool:
    """Whether it stands in the path as a word: Q4_K is not in IQ4_K nor in Q4_K_M."""
    return re.search(rf"(?<![A-Za-z0-9_]){re.escape(wanted)}(?![A-Za-z0-9_])", path, re.IGNORECASE) is not None


def _listed(paths: Sequence[str] | Mapping[str, HubFile]) -> str:
    shown = list(paths)[:_SHOWN]
    return ", ".join(shown) + (f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else "")


def _on_disk(repo_id: str, files: Sequence[HubFile], revision: str) -> Path | None:
    """The first file's path if all of them are on this machine: in the hub's cache, or in that of another program."""
    cached = [try_to_load_from_cache(repo_id, file.path, revision=revision) for file in files]
    if all(isinstance(path, str) for path in cached):
        return Path(str(cached[0]))
    return hub_file_elsewhere(repo_id, [(file.path, file.n_bytes) for file in files])


def _in_cache(reference: HubReference) -> Path | None:
    """The first file's path if the hub's cache has what is meant, as it was when the hub was last asked."""
    try:
        folder = Path(
            snapshot_download(
                reference.repo_id, revision=reference.revision, local_files_only=True, allow_patterns="*.gguf"
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError):
        return None
    files = [
        HubFile(path.relative_to(folder).as_posix(), path.stat().st_size, "")
        for path in folder.rglob("*.gguf")
        if path.exists()
    ]
    try:
        return folder / choose(files, reference)[0].path
    except ModelError:
        return None


def _unreachable(error: Exception) -> SourceError:
    return SourceError(
        f"the hub ({constants.ENDPOINT}) cannot be reached: {error or type(error).__name__}; check the network, "
        "or set HF_ENDPOINT to a mirror",
        retry_safe=True,
    )


def _passing_or_raise(repo_id: str, error: HfHubHTTPError, revision: str | None) -> PassingError:
    """An error that may pass; others are raised as ours."""
    if isinstance(error, GatedRepoError):
        raise _gated(repo_id) from None
    if isinstance(error, RevisionNotFoundError):
        raise ModelNotFoundError(f"hf:{repo_id} has no revision {revision}: check the address") from None
    if isinstance(error, RepositoryNotFoundError):
        raise _not_found(repo_id) from None
    status, headers = error.response.status_code, error.response.headers
    explained = _explain(repo_id, status, headers)
    if explained is not None:
        raise explained from None
    if status != _TOO_MANY and status < 500:
        raise SourceError(f"the hub ({constants.ENDPOINT}) answers {status} for {repo_id}") from None
    return PassingError(f"it answers {status}", wait_asked_for(headers.get("Retry-After", "")))


def _explain(repo_id: str, status: int, headers: Mapping[str, str]) -> CaravanError | None:
    """What the hub means by a status. Source: hf_raise_for_status of huggingface_hub."""
    if headers.get("X-Error-Code") == "GatedRepo":
        return _gated(repo_id)
    if status in (401, 403):
        return SourceError(
            f"the hub does not let us read hf:{repo_id} ({status}): log in with `hf auth login`, or set HF_TOKEN to a "
            "token that may read it"
        )
    return None


def _gated(repo_id: str) -> SourceError:
    return SourceError(
        f"hf:{repo_id} is gated: accept its terms at {constants.ENDPOINT}/{repo_id}, then log in with `hf auth login` "
        "or set HF_TOKEN"
    )


def _not_found(repo_id: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"the hub has no {repo_id}, or does not show it to us: check the name; if it is private, log in with "
        "`hf auth login` or set HF_TOKEN"
    )
