# SPDX-License-Identifier: MIT
"""Where corrections are kept: one small JSON file for each model, in the user's cache folder. Blocking; what cannot be
read or written is not worth an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict

from coordinator.cache import keep_json
from coordinator.corrections import Correction
from protos.cache_folder import cache_folder

_LOG = logging.getLogger(__name__)


def read_corrections(identity: str) -> dict[str, Correction]:
    """For a model, by place; none if the file is damaged."""
    path = cache_folder() / _name(identity)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(place): Correction(float(values["factor"]), float(values["overhead_s"]))
            for place, values in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.info("what earlier runs taught is not used: %s cannot be read: %s", path, error)
        return {}


def keep_corrections(identity: str, corrections: Mapping[str, Correction]) -> None:
    """Adds these to what is kept for a model."""
    kept = read_corrections(identity) | dict(corrections)
    keep_json(_name(identity), {place: asdict(each) for place, each in kept.items()})


def _name(identity: str) -> str:
    return f"corrections/{identity[:16]}.json"
