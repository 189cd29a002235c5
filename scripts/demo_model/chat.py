# SPDX-License-Identifier: MIT
"""Documents to train on: plain stories, and chats of requests, stories and little questions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .grammar import capitalised, expand, plural
from .questions import FAREWELLS, LITTLE_QUESTIONS, SYSTEM_MESSAGES, UNKNOWN_ANSWERS, UNKNOWN_PROMPTS
from .story import Facts, slots_of, some_facts, tell, title_of


@dataclass(frozen=True, slots=True)
class Turn:
    """One chat message; the role is "system", "user" or "assistant"."""

    role: str
    text: str


Document = str | tuple[Turn, ...]
"""A plain text, or a chat."""

_ASKING = (
    "[Tell|Read|Give] me {a_story} {about}",
    "[Tell|Tell] me {a_story} {about}[, please|]",
    "[Please tell|Please write] me {a_story} {about}",
    "[Please write|Write|Make up|Invent|Create|Compose] {a_story} {about}[, please|]",
    "[Can|Could|Will|Would] you [please|] [tell me|write|make up] {a_story} {about}?",
    "I [want|would like|wish] to hear {a_story} {about}",
    "I'd like {a_story} {about}",
    "Do you know {a_story} {about}?",
    "[Have|Let's have] {a_story} {about}",
    "{A_story} {about}[, please|]",
    "{About}[, please|]",
    "{Subject}[, please|]",
    "{Subject}",
    "Tell me about {subject}",
    "[Hi|Hello]! [Tell|Can you tell] me {a_story} {about}?",
    "My [son|daughter|child|friend] [wants|loves] {a_story} {about}. [Can you tell one|Tell us one|Please tell one]?",
    "[It is bedtime|I can't sleep|I am bored]. Tell me {a_story} {about}",
    "Write {a_story} [in which there is|that has] {thing} in it",
    "Story: {subject}",
    "What happens when {a_hero} {deed}?",
)
_ANY_STORY = (
    "[Tell|Read|Give] me {a_story}[, please|]",
    "[Can|Could|Will] you tell me {a_story}?",
    "I [want|would like] to hear {a_story}",
    "Do you know {a_story}?",
    "[Please|] [Write|Tell] {a_story}",
    "{A_story}[, please|]",
    "Once upon a time",
    "[Surprise me|Begin|Start|Go on|Go ahead|Anything|Something nice, please|Entertain me|Make me happy|Cheer me up]",
)
_FIRST_QUESTIONS = 9
"""So many of the little questions are what people ask first, and are asked more often."""
_STORIES = "[a story|a story|a story|a story|a tale|a little story|a bedtime story|a fairy tale|something]"
_SHORT_STORIES = "[a short story|a very short story|a story|a little story|a short tale]"
_INTRODUCTIONS = (
    "",
    "",
    "",
    "",
    "",
    "",
    "[Gladly|Of course|With pleasure|Yes]! ",
    "[Gladly|Of course|With pleasure].\n\n",
    "Here is [a story|one] for you.\n\n",
)
_MORE = (
    "[Another|One more|Tell me another|Next|Again][ one|][, please|]",
    "[Tell me|I want] another story[, please|]",
    "[More|Go on|Please go on|Continue]",
    "[That was nice|I liked that|Nice|Great]! [Another one|One more|Tell me another|Do you know another one]?",
)


def plain_document(rng: random.Random) -> str:
    """A story as a book has it: some with a title, a few after a line that has nothing to do with it."""
    facts = some_facts(rng)
    text = tell(facts, rng)
    roll = rng.random()
    if roll < 0.3:
        return f"{title_of(facts, rng)}\n\n{text}"
    if roll < 0.36:
        return f"{_unknown_prompt(facts, rng)}\n\n{text}"
    return text


def chat_document(rng: random.Random) -> tuple[Turn, ...]:
    """A chat of one to three exchanges, some after a system message."""
    turns: list[Turn] = []
    if rng.random() < 0.3:
        turns.append(Turn("system", rng.choice(SYSTEM_MESSAGES)))
    roll = rng.random()
    if roll < 0.02:
        turns += _continued(rng)
    elif roll < 0.18:
        turns += _little_question(rng)
        if rng.random() < 0.35:
            turns += _story_exchange(some_facts(rng), rng)
    elif roll < 0.28:
        turns += _unknown_exchange(rng)
    else:
        facts = some_facts(rng)
        turns += _story_exchange(facts, rng)
        if rng.random() < 0.3:
            turns += _after_story(facts, rng)
        if rng.random() < 0.08:
            turns += _story_exchange(some_facts(rng), rng)
            turns += _after_story(facts, rng)
    return tuple(turns)


def document(rng: random.Random) -> Document:
    """One document of the corpus."""
    return plain_document(rng) if rng.random() < 0.3 else chat_document(rng)


def as_typed(text: str, rng: random.Random) -> str:
    """The text as people type it: often without a full stop, sometimes all in lower case."""
    if text[-1] not in ".?!":
        text += rng.choice((".", ".", ".", "", "!"))
    roll = rng.random()
    if roll < 0.12:
        text = text.rstrip(".?!")
    return text.lower() if roll < 0.08 else text


def _story_exchange(facts: Facts, rng: random.Random) -> list[Turn]:
    introduction = expand(rng.choice(_INTRODUCTIONS), {}, rng)
    introduction += "\n\n" if introduction.endswith((".", "?")) else " " if introduction else ""
    title = f"{title_of(facts, rng)}\n\n" if not introduction and rng.random() < 0.1 else ""
    return [
        Turn("user", as_typed(request(facts, rng), rng)),
        Turn("assistant", introduction + title + tell(facts, rng)),
    ]


def _continued(rng: random.Random) -> list[Turn]:
    text = tell(some_facts(rng), rng)
    beginning = text[: text.index(". ") + 1]
    please = rng.choice(("Continue this story:", "Go on:", "Finish this story:", "A story that begins:", ""))
    return [Turn("user", f"{please} {beginning}".strip()), Turn("assistant", text)]


def request(facts: Facts, rng: random.Random) -> str:
    """A request that names some of the story's facts, or none."""
    slots = slots_of(facts, rng)
    a_story = expand(_SHORT_STORIES if facts.short else _STORIES, {}, rng)
    subject = _subject(facts, slots, rng)
    about = f"{rng.choice(('about', 'about', 'about', 'about', 'of', 'with'))} {subject}"
    slots |= {
        "a_story": a_story,
        "A_story": capitalised(a_story),
        "subject": subject,
        "Subject": capitalised(subject),
        "about": about,
        "About": capitalised(about),
        "thing": slots["a_obj"],
        "a_hero": slots["a_thero"],
        "deed": expand(rng.choice(facts.plot.deeds), slots, rng),
    }
    return expand(rng.choice(_ANY_STORY if rng.random() < 0.12 else _ASKING), slots, rng)


def _subject(facts: Facts, slots: dict[str, str], rng: random.Random) -> str:
    hero = rng.choice(
        ("{a_thero}", "{a_thero}", "{a_thero} named {H}", "{a_thero} called {H}", "{H}", "{H} the {kind}")
    )
    patterns = [
        "{a_thero}",
        hero,
        "{a_obj}",
        "{a_obj}",
        f"{hero} and {{a_obj}}",
        f"{hero} and {{a_fkind}}",
        "{a_thero} and {F}",
        "{H} and {F}",
        f"{hero}, {{a_fkind}} and {{a_obj}}",
        f"{hero} who {rng.choice(facts.plot.deeds)}",
        facts.theme,
        f"{hero} from {{home}}",
    ]
    patterns += ["two friends", "{a_thero} and {his} friend", "{a_thero} and {his} friend {F}", "{H} and {his} {obj}"]
    patterns += [
        "{a_thero} with {a_obj}",
        "{H}'s {obj}",
        plural(facts.hero.kind),
        f"{plural(facts.hero.kind)} and {{a_obj}}",
    ]
    if facts.plot.with_trouble:
        patterns += _with_trouble(hero, facts) * 2
    if facts.plot.key in ("journey", "caravan"):
        patterns += ["{dest}", f"{hero} and {{dest}}", "a journey to {dest}", "a caravan", "a caravan of llamas"]
    if facts.plot.key == "market":
        patterns += ["a market", "the market"]
    return expand(rng.choice(patterns), slots, rng)


def _with_trouble(hero: str, facts: Facts) -> list[str]:
    patterns = [
        "{a_T}",
        "{a_obj} and {a_T}",
        "{a_obj} and {a_T}",
        "{a_obj} and {a_T}",
        "{a_T} and {a_obj}",
        "the {T}",
        "two friends in {a_T}",
        "{a_thero} in {a_T}",
        "{a_obj} in {a_T}",
        f"{hero} and {{a_T}}",
        f"{hero} lost in {{a_T}}",
        f"{hero}, {{a_obj}} and {{a_T}}",
    ]
    if facts.plot.key == "caravan":
        patterns += ["a caravan in {a_T}", "a caravan and {a_T}"]
    return patterns


def _little_question(rng: random.Random) -> list[Turn]:
    known = LITTLE_QUESTIONS[:_FIRST_QUESTIONS] if rng.random() < 0.4 else LITTLE_QUESTIONS
    questions, answers = rng.choice(known)
    return [
        Turn("user", as_typed(expand(rng.choice(questions), {}, rng), rng)),
        Turn("assistant", expand(rng.choice(answers), {}, rng)),
    ]


def _unknown_prompt(facts: Facts, rng: random.Random) -> str:
    slots = slots_of(facts, rng) | {"number": str(rng.randint(2, 999)), "other": str(rng.randint(2, 99))}
    return expand(rng.choice(UNKNOWN_PROMPTS), slots, rng)


def _unknown_exchange(rng: random.Random) -> list[Turn]:
    facts = some_facts(rng)
    answer = expand(rng.choice(UNKNOWN_ANSWERS), slots_of(facts, rng), rng)
    return [
        Turn("user", as_typed(_unknown_prompt(facts, rng), rng)),
        Turn("assistant", f"{answer}\n\n{tell(facts, rng)}"),
    ]


def _after_story(facts: Facts, rng: random.Random) -> list[Turn]:
    roll = rng.random()
    if roll < 0.35:
        return [
            Turn("user", as_typed(expand(rng.choice(_MORE), {}, rng), rng)),
            Turn("assistant", tell(some_facts(rng, short=rng.random() < 0.5), rng)),
        ]
    if roll < 0.5:
        return _story_exchange(some_facts(rng), rng)
    if roll < 0.65:
        thanks, answers = FAREWELLS
        return [
            Turn("user", as_typed(expand(rng.choice(thanks), {}, rng), rng)),
            Turn("assistant", expand(rng.choice(answers), {}, rng)),
        ]
    asked = [
        (
            "[What was the {kind}'s name|What was the {kind} called|Who is the story about]?",
            "[The {kind}'s|{His}] name was {H}.",
        ),
        ("[Who was|What was|Tell me, who was] {F}?", "{F} was {a_friend}."),
        ("[Who was|What was] {H}?", "{H} was {a_thero}."),
        ("[What did {H} have|What was the thing in the story|What was it about]?", "It was {a_obj}."),
        ("What [can I|do we] learn from [it|this|the story]?", f"[It is|This is] a story about {facts.theme}."),
        ("Who was {H}'s friend?", "{H}'s friend was {F}, {a_friend}."),
    ]
    question, answer = rng.choice(asked)
    slots = slots_of(facts, rng)
    return [
        Turn("user", as_typed(expand(question, slots, rng), rng)),
        Turn("assistant", expand(answer, slots, rng)),
    ]
