# SPDX-License-Identifier: MIT
"""Who and what there is in the demo model's world: names, kinds, things, places, troubles.

The lists are wide on purpose. Hundreds of nouns and names made of random syllables teach the model to
carry over what a prompt names, not only what it has met.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .grammar import with_article


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a story: its noun, the adjectives that suit it, and what it is good for."""

    noun: str
    use: str
    adjectives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place: how it is first named, how it is named again, and the preposition for being there."""

    first: str
    again: str
    preposition: str


SHE_NAMES = tuple(
    "Mina Lila Zara Nuri Amira Tessa Sela Juna Ria Pela Olla Yara Dalia Sahra Minu Ines Noor Kira Vela Luma"
    " Anna Lily Emma Mia Sara Lucy Rosa Ella Nina Clara Maya Ruby Ida Hana Leila Fatima Greta Molly Daisy Zoe"
    " Luna Alice Sofia Eva Iris Pearl Hazel Nora Wilma Coco Marta Bella Jasmine Ayla Saffron Cinnamon Clover Ginger Maple".split()
)
HE_NAMES = tuple(
    "Pim Tobo Omar Bako Rafi Kito Sami Hugo Milo Taro Jonah Idris Bram Pico Yusuf Nilo Dario Karim Otto Fenn"
    " Tom Max Ben Leo Sam Jack Tim Finn Oscar Paul Felix Adam Noah Ali Hassan Ravi Chen Diego Pablo Henry Bob"
    " Charlie Peter Lukas Oliver Arthur Momo Bruno Theo Emil Jasper Rollo Gus Toby Ahmed Arnold Pebble Dusty Biscuit Button".split()
)

CARAVAN_KINDS = tuple("llama llama llama llama llama camel donkey mule alpaca goat".split())
DESERT_KINDS = tuple("fox lizard owl crow hare hedgehog tortoise mouse falcon jackal snake beetle gecko".split())
OTHER_KINDS = tuple(
    "dragon|robot|cat|dog|rabbit|elephant|lion|tiger|bear|monkey|horse|pony|cow|pig|sheep|lamb|duck|goose|hen"
    "|penguin|whale|dolphin|fish|frog|toad|turtle|squirrel|badger|wolf|deer|otter|beaver|raven|sparrow|parrot"
    "|bee|ant|butterfly|spider|snail|worm|unicorn|giant|wizard|witch|ghost|fairy|pirate|knight|monster|troll"
    "|mermaid|elf|dwarf|astronaut|teacher|doctor|farmer|baker|painter|sailor|gardener|tailor|cook|dancer|singer"
    "|musician|poet|scientist|fisherman|shepherd|merchant|potter|weaver|blacksmith|clockmaker|bus driver"
    "|postman|thief|clown|juggler|hunter|soldier|guard|messenger|librarian|engineer|detective|computer|dinosaur"
    "|crocodile|zebra|giraffe|kangaroo|panda|koala|polar bear|kitten|puppy|crab|octopus|eagle|swan|bat|moth"
    "|cricket|ladybird|snowman|scarecrow|puppet|baby llama|baby camel|child|stranger|traveller|neighbour".split("|")
)
SHE_KINDS = tuple("girl|girl|old woman|queen|princess|grandmother|shepherd girl|young woman|little sister".split("|"))
HE_KINDS = tuple("boy|boy|old man|king|prince|grandfather|shepherd boy|young man|little brother".split("|"))

TRAITS = tuple(
    "small|young|brave|shy|curious|gentle|clever|quiet|cheerful|kind|patient|proud|lonely|sleepy|hungry|old"
    "|stubborn|careful|dreamy|little|white|brown|grey|tiny|big|lazy|clumsy|happy|grumpy|honest|friendly".split("|")
)

_COLOURS = ("red", "blue", "green", "yellow", "white", "golden", "purple", "grey")
_METALS = ("brass", "copper", "silver", "golden", "rusty", "old", "tiny", "small")
_PLAIN = ("small", "old", "little", "big", "beautiful", "strange", "wonderful", "tiny")


def _things(use: str, nouns: str, *adjectives: str) -> list[Thing]:
    return [Thing(noun, use, adjectives) for noun in nouns.split("|")]


THINGS: tuple[Thing, ...] = (
    *_things("light", "lantern|lantern|lantern|lamp|oil lamp", *_METALS, "red", "green"),
    *_things("light", "candle|torch|glowing stone", "small", "long", "white", "yellow"),
    *_things("sound", "bell|bell|flute|horn|whistle|trumpet", *_METALS),
    *_things("sound", "drum|harp|fiddle|guitar", "small", "wooden", "old", "painted"),
    *_things("warmth", "blanket|blanket|scarf|cloak|shawl|coat|carpet|tent|quilt", "woollen", "warm", *_COLOURS),
    *_things("food", "loaf of bread|basket of dates|bag of figs|pot of soup|jar of honey|cake|pie", "small", "big"),
    *_things("food", "water jug|kettle|teapot|gourd|bottle", "clay", "old", "copper", "big", "blue"),
    *_things("rope", "rope|rope|ball of yarn|cord|long ribbon|belt", "strong", "red", "old", "blue"),
    *_things("guide", "map|map|compass|star chart", "old", "secret", "small", "golden", "wonderful"),
    *_things("guide", "book|letter", "old", "blue", "secret", "little"),
    *_things("tool", "shovel|hammer|bucket|spoon|knife|broom|saw", "iron", "wooden", "old", "small"),
    *_things(
        "curio",
        "key|mirror|feather|kite|balloon|ball|doll|toy|box|crown|ring|coin|pearl|shell|stone|crystal|seed|flower"
        "|rose|apple|orange|egg|hat|boot|shoe|glove|button|umbrella|clock|watch|bicycle|boat|train|cart|wagon|car"
        "|telescope|camera|radio|phone|computer|painting|statue|vase|bowl|plate|cup|basket|chair|table|bed|pillow"
        "|ladder|net|fishing rod|sword|shield|wand|carriage|rocket|machine|piano|violin|pen|pencil|notebook"
        "|necklace|bracelet|treasure chest|chest|sack|suitcase|magnet|puzzle|wheel|flag|tree|cactus|pumpkin"
        "|carrot|cookie|cheese|potato|mushroom|star|gift|present|sandwich",
        *_PLAIN,
        *_COLOURS,
    ),
)

_NAMED = (
    "Amber Well|Seven Palms|Red Gate|Long Shadow|Salt Bridge|Blue Oasis|Hollow Hill|Silver Dune|Fig Tree Cross"
    "|Old Market|Moon Rock|Copper Springs|White Tower|Quiet Sands|Green Door|Lantern Hill|Three Wells|Windy Pass"
).split("|")
_OPEN_PLACES = (
    "sea|moon|city|mountains|river|forest|castle|palace|island|garden|jungle|farm|library|school|harbour|lake"
    "|village|market|valley|beach|bakery|museum|tower|lighthouse|cave|bridge|mill|desert|oasis|North Pole|zoo"
).split("|")
VAGUE_HOMES = (
    Place("the edge of the desert", "the edge of the desert", "at"),
    Place("a small village", "the village", "in"),
    Place("a land of sand and stars", "that land", "in"),
)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A trouble: the words it goes by ("storm", "a storm"), and the key of its sentences."""

    key: str
    noun: str
    first: str


TROUBLES: tuple[Trouble, ...] = tuple(
    Trouble(key, noun, first)
    for key, noun, first in (
        ("storm", "storm", "a storm"),
        ("storm", "storm", "a great storm"),
        ("storm", "sandstorm", "a sandstorm"),
        ("storm", "wind", "a strong wind"),
        ("storm", "whirlwind", "a whirlwind"),
        ("rain", "rain", "heavy rain"),
        ("rain", "thunderstorm", "a thunderstorm"),
        ("rain", "rainstorm", "a rainstorm"),
        ("fog", "fog", "a thick fog"),
        ("fog", "mist", "a white mist"),
        ("dark", "dark night", "a dark night"),
        ("dark", "darkness", "a great darkness"),
        ("cold", "cold night", "a cold night"),
        ("cold", "snow", "deep snow"),
        ("cold", "snowstorm", "a snowstorm"),
        ("cold", "frost", "a hard frost"),
        ("well", "dry well", "a dry well"),
        ("well", "empty well", "an empty well"),
        ("river", "river", "a wide river"),
        ("river", "flood", "a flood"),
        ("wheel", "broken wheel", "a broken wheel"),
        ("wheel", "broken cart", "a broken cart"),
        ("noise", "strange sound", "a strange sound"),
        ("noise", "strange noise", "a strange noise"),
        ("heat", "heat", "a terrible heat"),
        ("heat", "hot day", "a very hot day"),
        ("maze", "maze of dunes", "a maze of dunes"),
        ("maze", "maze", "a maze of rocks"),
        ("mountain", "mountain", "a steep mountain"),
        ("mountain", "cliff", "a high cliff"),
    )
)

_ONSETS = "b|bl|br|c|d|dr|f|g|gr|h|j|k|kr|l|m|n|p|pl|qu|r|s|sh|st|t|th|tr|v|w|y|z|zh|".split("|")
_VOWELS = "a|e|i|o|u|a|i|o|a|e|ee|oo|ai".split("|")
_CODAS = "n|l|r|s|m|k|x|rn|ll|sh|th|t|d|p|ck||||||".split("|")


def made_up_name(rng: random.Random, pronoun: str = "") -> str:
    """A name of one to three random syllables: "Zorba" ends like a she, "Zorbi" and "Zorb" like a he."""
    syllables = rng.choice((1, 2, 2, 2, 3))
    letters = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables))
    letters = letters.removesuffix("a") if pronoun == "he" else letters
    letters += "a" if pronoun == "she" and letters[-1:] != "a" else rng.choice(_CODAS) if pronoun != "she" else ""
    if len(letters) < 3:
        letters += "la" if pronoun == "she" else "lo"
    return letters.capitalize()


def some_place(rng: random.Random) -> Place:
    """A town of the desert, a made-up one, or any place such as "the sea"."""
    shape = rng.random()
    if shape < 0.3:
        noun = rng.choice(_OPEN_PLACES)
        return Place(f"the {noun}", f"the {noun}", "near")
    name = rng.choice(_NAMED) if shape < 0.85 else made_up_name(rng)
    kind = rng.choice(("town", "town", "village", "market town", "oasis"))
    return Place(f"the {kind} of {name}", rng.choice((name, f"the {kind}")), "at" if kind == "oasis" else "in")


def made_up_noun(rng: random.Random) -> str:
    """A noun nobody knows, such as "blorp", so that unknown words are carried over too."""
    return made_up_name(rng).lower()


def described(adjective: str, noun: str) -> str:
    """The noun with article and, where there is one, adjective: "a small brass bell"."""
    return with_article(f"{adjective} {noun}" if adjective else noun)
