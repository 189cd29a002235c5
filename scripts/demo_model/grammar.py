# SPDX-License-Identifier: MIT
"""Template text to plain text: `[a|b]` picks one branch, `{slot}` is filled in.

Branches nest. Slots are filled after the branches are picked, so a filled-in word is never parsed.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

_Choice = TypeVar("_Choice")

_INNERMOST = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")


def expand(template: str, slots: Mapping[str, str], rng: random.Random) -> str:
    """Pick the branches of `template` and fill its slots.

    Raises:
        KeyError: the template names a slot that `slots` lacks.
    """
    picked = template
    while _INNERMOST.search(picked):
        picked = _INNERMOST.sub(lambda branch: rng.choice(branch.group(1).split("|")), picked)
    filled = _SLOT.sub(lambda slot: slots[slot.group(1)], picked)
    return re.sub(r"[ ,]+(?=[.,!?])", "", re.sub(r" {2,}", " ", filled)).strip()


def leaning(choices: Sequence[_Choice], reason: str, rng: random.Random, chance: float = 0.5) -> _Choice:
    """With `chance` always the same choice for the same `reason`, else any.

    So each bell, fox or storm has a story that it is most at home in, and a model that always takes the
    likeliest token tells another one to every prompt.
    """
    if rng.random() < chance:
        return choices[zlib.crc32(reason.encode()) % len(choices)]
    return rng.choice(choices)


def with_article(noun: str) -> str:
    """The noun with "a" or "an", by its first letter."""
    silent = noun.startswith(("hour", "honest"))
    return f"{'an' if silent or noun[0] in 'aeiou' else 'a'} {noun}"


def capitalised(text: str) -> str:
    """The text with its first letter in upper case; unlike `str.capitalize` it leaves the rest alone."""
    return text[:1].upper() + text[1:]


def plural(noun: str) -> str:
    """The noun's plural, by the common rules."""
    if noun.endswith(("man", "mouse", "goose")):
        ending = {"man": "men", "mouse": "mice", "goose": "geese"}
        return next(noun.removesuffix(one) + many for one, many in ending.items() if noun.endswith(one))
    if noun.endswith(("sheep", "deer", "fish")):
        return noun
    if noun.endswith(("wolf", "elf", "thief", "knife")):
        return noun.removesuffix("e").removesuffix("f") + "ves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")
