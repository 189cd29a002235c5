# SPDX-License-Identifier: MIT
"""Request fields that we know and cannot honour: leaving them out would change the answer's meaning.

Asked while a request is validated. Other unknown fields are ignored, as llama-server does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

OWN_SENTENCE = "sentence"
"""Type of the validation errors whose message is a sentence of ours, to be shown as it is."""


def refusal(sentence: str, param: str | None = None) -> PydanticCustomError:
    """A validation error that says `sentence`; `param` names the field where the error's place does not."""
    context = {"sentence": sentence} if param is None else {"sentence": sentence, "param": param}
    return PydanticCustomError(OWN_SENTENCE, "{sentence}", context)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A field, the values with which it says nothing, and the sentence for all others."""

    harmless: Callable[[object], bool]
    sentence: str


def _none_or(*values: object) -> Callable[[object], bool]:
    return lambda value: value is None or any(type(value) is type(v) and value == v for v in values)


def _sampler_off(name: str) -> Refusal:
    sentence = f"{name} is not supported: leave it out, or set it to 0"
    return Refusal(_none_or(0, 0.0), sentence)


_NO_TOOLS = "tools are for /v1/chat/completions: leave out {}"
_OLD_FORM = "{} is OpenAI's old form: send `{}`"

REFUSED: Mapping[str, Refusal] = {
    "tools": Refusal(_none_or([]), _NO_TOOLS.format("`tools`")),
    "functions": Refusal(_none_or([]), _OLD_FORM.format("functions", "tools")),
    "tool_choice": Refusal(_none_or("none", "auto"), _NO_TOOLS.format("`tool_choice`")),
    "function_call": Refusal(_none_or("none", "auto"), _OLD_FORM.format("function_call", "tool_choice")),
    "modalities": Refusal(_none_or(["text"]), "only text can be generated: leave out `modalities`"),
    "audio": Refusal(_none_or(), "audio is not supported: leave out `audio`"),
    "web_search_options": Refusal(_none_or(), "there is no web search here: leave out `web_search_options`"),
    "suffix": Refusal(_none_or(""), "infill is not supported: leave out `suffix`"),
    "best_of": Refusal(_none_or(1), "best_of is not supported: leave it out, and choose among `n` answers yourself"),
    "samplers": Refusal(_none_or([]), "the order of the samplers is fixed: leave out `samplers`"),
    "post_sampling_probs": Refusal(
        _none_or(False),
        "post_sampling_probs is not supported, probabilities are those before sampling: leave it out",
    ),
    "lora": Refusal(_none_or([]), "LoRA adapters are not supported: leave out `lora`"),
    "mirostat": _sampler_off("mirostat"),
    "dynatemp_range": _sampler_off("dynatemp_range"),
    "xtc_probability": _sampler_off("xtc_probability"),
    "dry_multiplier": _sampler_off("dry_multiplier"),
    "top_n_sigma": Refusal(
        lambda value: value is None or (isinstance(value, int | float) and value <= 0),
        "top_n_sigma is not supported: leave it out, or set it to -1",
    ),
}


def first_refused(fields: Mapping[str, object]) -> tuple[str, str] | None:
    """The first field of `fields` that must be refused, with its sentence; None if all can be ignored."""
    for name, refusal in REFUSED.items():
        if name in fields and not refusal.harmless(fields[name]):
            return name, refusal.sentence
    return None
