# SPDX-License-Identifier: MIT
"""One story: who and what is in it (`Facts`), and its text, told from a plot."""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import world
from .beats import THEME_ENDINGS
from .grammar import capitalised, expand, leaning, with_article
from .plots import PLOTS, Plot
from .solutions import AFTER, ARRIVE, SOLVE, WORRY

_LOST_ONES = ("a baby camel", "a young owl", "a little goat", "a small fox", "a lamb", "a baby llama")
_VESSELS = ("water jug", "kettle", "teapot", "gourd", "bottle")
_AGES = {"old", "young", "little", "baby", "polar"}
_ODD_CHANCE = 0.06
"""How often a noun is one that nobody knows: enough to learn to carry unknown words over."""


@dataclass(frozen=True, slots=True)
class Character:
    """Somebody in a story; the pronoun is "she" or "he"."""

    name: str
    kind: str
    trait: str
    pronoun: str

    @property
    def noun(self) -> str:
        """The kind with its trait, if the story tells one: "brave llama"."""
        return f"{self.trait} {self.kind}" if self.trait else self.kind

    @property
    def her_or_him(self) -> str:
        return "her" if self.pronoun == "she" else "him"

    @property
    def her_or_his(self) -> str:
        return "her" if self.pronoun == "she" else "his"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a story is about: everything that a request may name, or a later question may ask for."""

    plot: Plot
    hero: Character
    friend: Character
    thing: world.Thing
    adjective: str
    trouble: world.Trouble
    home: world.Place
    destination: world.Place
    theme: str
    short: bool


def some_character(rng: random.Random, taken: str = "") -> Character:
    """Somebody whose name is not `taken`."""
    roll = rng.random()
    pools = ((0.42, world.CARAVAN_KINDS), (0.56, world.DESERT_KINDS), (0.80, world.OTHER_KINDS))
    pronoun = rng.choice(("she", "he"))
    kind = next((rng.choice(pool) for limit, pool in pools if roll < limit), "")
    if not kind:
        kind = rng.choice(world.SHE_KINDS if pronoun == "she" else world.HE_KINDS)
    if rng.random() < _ODD_CHANCE:
        kind = world.made_up_noun(rng)
    trait = rng.choice(world.TRAITS) if rng.random() < 0.6 and kind.split()[0] not in _AGES else ""
    known = world.SHE_NAMES if pronoun == "she" else world.HE_NAMES
    name = taken
    while name == taken:
        name = world.made_up_name(rng, pronoun) if rng.random() < 0.3 else leaning(known, kind, rng, 0.3)
    return Character(name, kind, trait, pronoun)


def some_facts(rng: random.Random, short: bool | None = None) -> Facts:
    """Facts of a random story; `short` is drawn too unless it is given."""
    hero = some_character(rng)
    trouble = rng.choice(world.TROUBLES)
    uses = ("light", "sound", "warmth", "food", "rope", "guide", "tool", "curio", "curio", "curio")
    use = rng.choice(uses)
    things = [thing for thing in world.THINGS if thing.use == use]
    thing = leaning(things, rng.choice((hero.kind, trouble.noun)), rng, 0.3)
    if rng.random() < _ODD_CHANCE:
        thing = world.Thing(world.made_up_noun(rng), "curio", ("strange", "small"))
    plots = [plot for plot in PLOTS if plot.with_trouble] if rng.random() < 0.25 else PLOTS
    plot = leaning(plots, thing.noun, rng)
    return Facts(
        plot=plot,
        hero=hero,
        friend=some_character(rng, taken=hero.name),
        thing=thing,
        adjective=rng.choice(thing.adjectives) if rng.random() < 0.5 else "",
        trouble=trouble,
        home=rng.choice(world.VAGUE_HOMES) if rng.random() < 0.3 else world.some_place(rng),
        destination=world.some_place(rng),
        theme=rng.choice(plot.themes),
        short=rng.random() < 0.25 if short is None else short,
    )


def slots_of(facts: Facts, rng: random.Random) -> dict[str, str]:
    """The words that fill the slots of this story's templates."""
    hero, friend, noun = facts.hero, facts.friend, facts.thing.noun
    lost = rng.choice(_LOST_ONES)
    in_home = f"{facts.home.preposition} {facts.home.first}"
    return {
        "H": hero.name,
        "he": hero.pronoun,
        "He": capitalised(hero.pronoun),
        "him": hero.her_or_him,
        "his": hero.her_or_his,
        "His": capitalised(hero.her_or_his),
        "himself": f"{hero.her_or_him}self",
        "kind": hero.kind,
        "trait": hero.trait or rng.choice(("kind", "curious", "brave")),
        "a_thero": with_article(hero.noun),
        "F": friend.name,
        "fhe": friend.pronoun,
        "Fhe": capitalised(friend.pronoun),
        "fhim": friend.her_or_him,
        "fhis": friend.her_or_his,
        "fkind": friend.kind,
        "a_fkind": with_article(friend.kind),
        "a_friend": with_article(friend.noun),
        "obj": noun,
        "a_obj": world.described(facts.adjective, noun),
        "food": f"the water from the {noun}" if noun in _VESSELS else f"the {noun}",
        "T": facts.trouble.noun,
        "a_T": facts.trouble.first,
        "home": facts.home.first,
        "in_home": in_home,
        "In_home": capitalised(in_home),
        "dest": facts.destination.first,
        "dest_again": facts.destination.again,
        "a_lost": lost,
        "A_lost": capitalised(lost),
    }


def tell(facts: Facts, rng: random.Random) -> str:
    """The story's text: paragraphs with an empty line between them, or all in one."""
    slots = slots_of(facts, rng)
    pools = {
        "@arrive": ARRIVE[facts.trouble.key],
        "@worry": WORRY,
        "@solve": SOLVE[facts.trouble.key][facts.thing.use],
        "@after": AFTER[facts.trouble.key],
        "@theme": THEME_ENDINGS[facts.theme],
    }
    paragraphs = []
    for beats in facts.plot.paragraphs:
        sentences = []
        for beat in beats:
            if beat[0] == "?" and (facts.short or rng.random() < 0.3):
                continue
            template = leaning([choice for choice in beat if choice != "?"], facts.hero.kind, rng, 0.3)
            sentences.append(expand(rng.choice(pools.get(template, (template,))), slots, rng))
        paragraphs.append(" ".join(sentences))
    return (" " if facts.short else "\n\n").join(paragraphs)


def title_of(facts: Facts, rng: random.Random) -> str:
    """A title such as "Mina and the Brass Bell"."""
    thing = " ".join(filter(None, (facts.adjective, facts.thing.noun)))
    titles = [
        f"{facts.hero.name} and the {thing}",
        f"The {thing}",
        f"The {facts.hero.noun}",
        f"{facts.hero.name} the {facts.hero.kind}",
        f"The {facts.hero.kind} and the {thing}",
        f"{facts.hero.name} and {facts.friend.name}",
        f"The {facts.hero.kind} and the {facts.friend.kind}",
    ]
    if facts.plot.with_trouble:
        titles += [f"The {facts.trouble.noun}", f"The {thing} and the {facts.trouble.noun}"]
    small = {"and", "the", "of"}
    words = rng.choice(titles).split()
    return " ".join(word if i and word in small else capitalised(word) for i, word in enumerate(words))
