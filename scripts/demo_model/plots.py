# SPDX-License-Identifier: MIT
"""The plots: each is a few paragraphs of beats, each beat a pool of templates to pick one from.

A beat that begins with "?" is left out of short stories and now and then of others. `@arrive`, `@solve`
and `@after` stand for the sentences of the story's trouble, `@worry` for any of the common worries.
"""

from __future__ import annotations

from dataclasses import dataclass

from .beats import ARRIVAL, CLOSING, FIND_OBJECT, FRIEND, HABIT, HAS_OBJECT, MEET, OPENING, SET_OUT, Beat


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: the themes it can end on, what a request may say the hero did, and its paragraphs."""

    key: str
    themes: tuple[str, ...]
    deeds: tuple[str, ...]
    paragraphs: tuple[tuple[Beat, ...], ...]
    with_trouble: bool = True


PLOTS: tuple[Plot, ...] = (
    Plot(
        "journey",
        ("friendship", "courage", "hope", "patience", "helping"),
        ("goes on a journey", "travels to {dest}", "meets {a_T}", "gets into {a_T}", "has {a_obj}", "carries {a_obj}"),
        (
            (OPENING, ("?", *HABIT), HAS_OBJECT),
            (SET_OUT, MEET, ("@arrive",), ("@worry",), ("@solve",)),
            (("@after",), ARRIVAL, ("@theme",), ("?", *CLOSING)),
        ),
    ),
    Plot(
        "lost thing",
        ("friendship", "kindness", "hope", "patience"),
        (
            "loses {a_obj}",
            "lost {a_obj}",
            "loses {his} {obj}",
            "lost {his} {obj}",
            "looks for {his} {obj}",
            "cannot find {a_obj}",
        ),
        (
            (OPENING, HAS_OBJECT),
            (
                (
                    "But one [morning|day|evening] the {obj} was gone. {H} was very sad.",
                    "One day {he} lost the {obj}. {He} [cried|did not want to eat|could not sleep].",
                    "One [night|morning] {H} woke up and could not find the {obj}.",
                ),
                (
                    "{He} looked [under every stone|in every tent|behind every door] and [down the well|under the trees],"
                    " but {he} could not find it.",
                    "{He} looked [here and there|high and low], and {he} asked everyone {in_home}, but nobody had seen it.",
                    "{He} walked all the way to {dest} and back, and {he} asked everyone on the road.",
                ),
                (
                    'Then {F}, {a_friend}, came along. "Why are you so sad?" asked {F}. "I have lost my {obj}," said {H}.',
                    'Then {he} met {a_friend} named {F}. "I will help you," said {F}. "Four eyes see more than two."',
                ),
                (
                    "Together they followed {H}'s footprints back to the [old well|palm trees|market], and there was the {obj}!",
                    "They [looked|searched] until the sun went down. Then {F} saw something shine: it was the {obj}!",
                    '"Where did you have it last?" asked {F}. {H} thought hard. "[By the fire|At the well|In the garden]!"'
                    " And there it was.",
                ),
            ),
            (
                (
                    "{H} was so [happy|glad] that {he} [danced|jumped for joy|hugged {F}].",
                    '"Thank you," said {H}, and {he} held the {obj} close.',
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
    Plot(
        "gift",
        ("sharing", "kindness", "friendship"),
        ("gives away {a_obj}", "shares {a_obj}", "helps {a_fkind}", "finds {a_obj}", "found {a_obj}"),
        (
            (OPENING, ("?", *HABIT), FIND_OBJECT),
            (
                (
                    "{H} was very proud of the {obj} and [did not want to give it to anyone|showed it to everyone].",
                    "{H} liked the {obj} so much that {he} [slept beside it|cleaned it every day].",
                ),
                (
                    'Then {he} met {F}, {a_friend}, who was [sitting alone|crying|very sad]. "I have nothing," said {F}.',
                    "Then {a_friend} named {F} came by, [tired and sad|all alone]. {Fhe} looked at the {obj} with big eyes.",
                ),
                (
                    '{H} looked at the {obj} for a long time. Then {he} gave it to {F}. "It is yours," {he} said.',
                    '"Take it," said {H}, and {he} put the {obj} [before {F}|into {F}\'s bag]. "You need it more than I do."',
                ),
                (
                    "{F} could not believe it. {Fhe} [laughed|smiled] for the first time in many days.",
                    '"Thank you!" said {F}, and {fhis} eyes shone.',
                ),
            ),
            (
                (
                    "The next day {F} came back with [a basket of figs|warm bread|a song] for {H}.",
                    "A year later {F} came back and brought {H} [a bag of dates|a pot of honey|a warm cloak].",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
    Plot(
        "alone",
        ("courage", "hope", "helping"),
        ("is afraid of {a_T}", "is lost", "helps {a_fkind}", "saves {a_fkind}", "learns to be brave"),
        (
            (OPENING, ("But {he} was afraid of [the dark|many things|being alone].", *HABIT), HAS_OBJECT),
            (
                (
                    'One [day|evening] {his} friend {F}, {a_friend}, did not come home. "I must find {fhim}," said {H}.',
                    "One day {F}, {a_friend}, was lost in the desert. Nobody wanted to go, so {H} went to look for {fhim}.",
                ),
                (
                    "{He} [walked for hours|asked the wind|followed the footprints] and [at last|after a long time]"
                    " {he} found {F} [under a rock|behind a dune|beside an old wall].",
                    "{He} called and called, and at last {F} answered from [behind a dune|an old tower|a deep hole].",
                ),
                ("@arrive",),
                ("@worry",),
                ("@solve",),
            ),
            (
                ("@after",),
                (
                    "Together they walked home, [and everyone was waiting for them|hungry and happy].",
                    "When they came home, [there was warm soup for both|everybody was full of joy].",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
    ),
    Plot(
        "market",
        ("patience", "helping", "kindness"),
        ("wants {a_obj}", "buys {a_obj}", "works for {a_fkind}", "saves up for {a_obj}", "goes to the market"),
        (
            (OPENING, ("?", *HABIT)),
            (
                (
                    "One day at the market {he} saw {a_obj}. It was the most beautiful thing {he} had ever seen.",
                    "On the way to {dest} {he} saw {a_obj}. {He} wanted it very much, but {he} had no money.",
                ),
                (
                    'It belonged to {F}, {a_friend}. "How much is the {obj}?" asked {H}. "[Ten|Seven|Twenty] coins," said {F}.',
                    '"What do you want for the {obj}?" {he} asked. "[Help me for a week|Work for me]," said {F}, {a_friend}.',
                ),
                (
                    "So {H} [carried water|swept the floor|washed the pots|fed the camels], day after day.",
                    "So every morning {H} came to help {F} [carry bags|sell bread|load the camels|mend the tent].",
                ),
                (
                    "{He} was often tired, but {he} did not give up, and {F} [saw it|liked how {he} worked].",
                    'Sometimes it was hard. "Only a little more," {he} said to {himself}.',
                ),
                (
                    'On the last day {F} put the {obj} [into {his} bag|before {him}]. "It is yours," said {F}. "You have earned it."',
                    "At the end of the week {F} gave {him} the {obj} and a kind smile as well.",
                ),
            ),
            (
                (
                    "{H} took the {obj} home, and {he} was prouder than a king.",
                    "{H} ran all the way home to show everyone the {obj}.",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
    Plot(
        "quarrel",
        ("sharing", "friendship", "patience"),
        ("quarrels with {a_fkind}", "finds {a_obj}", "does not want to share", "learns to share"),
        (
            (OPENING, FRIEND),
            (
                (
                    'One day they found {a_obj} [in the sand|by the road|under a tree]. "It is mine!" cried {H}. "No, mine!" cried {F}.',
                    'One day both of them saw {a_obj} at the same time. "I saw it first!" said {H}. "No, I did!" said {F}.',
                ),
                (
                    "They pulled at the {obj} from both sides and would not speak to each other [all day|until the evening].",
                    "They quarrelled [all day|for hours], and in the end neither of them [had any joy in it|was happy].",
                ),
                ("@arrive",),
                ("Then they forgot their quarrel.", "Now there was no time to quarrel."),
                ("@solve",),
            ),
            (
                ("@after",),
                (
                    '"I am sorry," said {H}. "I am sorry too," said {F}. "The {obj} shall belong to both of us."',
                    '"Let us share the {obj}," said {H}. "One day with you and one day with me," said {F}.',
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
    ),
    Plot(
        "night visitor",
        ("kindness", "courage", "friendship"),
        ("hears something in the night", "meets {a_fkind}", "has a visitor", "sees something strange"),
        (
            (OPENING, HAS_OBJECT),
            (
                (
                    "One night {he} heard a knock. Outside stood {F}, {a_friend}, [cold and tired|all covered with sand].",
                    "One night something moved behind the tent. {H} looked out. It was {F}, {a_friend}.",
                ),
                (
                    '"Please let me in," said {F}. "I have [lost my way|walked for three days|nowhere to sleep]."',
                    '"I did not want to wake you," said {F}, "but I [am so tired|am all alone|have lost my caravan]."',
                ),
                (
                    "{H} made tea and gave {fhim} [soup|bread|a warm place by the fire]. They talked about {dest} until late.",
                    '"Come in," said {H}. "There is room for two." {He} showed {fhim} the {obj}, and {F} smiled.',
                ),
                (
                    "In the morning {H} [gave {fhim} the {obj} for the road|put the {obj} into {F}'s bag].",
                    '"Take the {obj} with you," said {H} in the morning. "It will help you on the road."',
                    "In the morning {F} had to go on, and {H} went with {fhim} as far as {dest_again}, with the {obj} on {his} back.",
                ),
            ),
            (
                (
                    "Many months later {F} came back with [gifts for everyone|a song about {H}|a big smile].",
                    "{F} told of {H} wherever {fhe} went, and {H} was never lonely again.",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
    Plot(
        "caravan",
        ("helping", "home", "patience", "courage"),
        (
            "joins a caravan",
            "walks with a caravan",
            "leads a caravan",
            "carries a heavy load",
            "travels with a caravan",
        ),
        (
            (OPENING, ("{He} wanted to go with the caravan.", "{His} dream was to walk with the great caravan.")),
            (
                (
                    "{F}, {a_friend}, led the caravan. One day {H} was allowed to come along to {dest}, and {he} carried {a_obj}.",
                    '"You may come," said {F}, {a_friend}, who led the caravan. {H} was given {a_obj} to carry to {dest}.',
                ),
                (
                    "The load was heavy, but everyone carried a part of it, [and nobody carried it all|the big and the small].",
                    "They walked in a long line, one behind the other, [and the bells rang|and sang as they went].",
                ),
                ("@arrive",),
                ("@worry",),
                ("@solve",),
            ),
            (
                ("@after",),
                ARRIVAL,
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
    ),
    Plot(
        "contest",
        ("kindness", "friendship", "helping"),
        ("wants to win a race", "runs a race", "helps {a_fkind}", "loses a race", "wins {a_obj}"),
        (
            (OPENING, ("?", *HABIT), HAS_OBJECT),
            (
                (
                    "One day there was a great race to {dest}. {H} wanted to win it [very much|more than anything].",
                    "One day all the young ones ran a race to {dest}. {H} was fast, and soon {he} was the first.",
                ),
                (
                    "Halfway {he} saw {F}, {a_friend}, who had [fallen into a hole|hurt {fhis} foot|lost the road].",
                    "Behind the last hill sat {F}, {a_friend}, who [could not walk|had fallen|was crying].",
                ),
                (
                    "{H} looked at the road and then at {F}. [The race could wait|A friend is more than a prize]. {He} stopped.",
                    '"Run on," said {F}, "or you will not win." But {H} stopped at once.',
                ),
                (
                    "{He} helped {F} up, gave {fhim} the {obj} to hold, and carried {fhim} [all the way|on {his} back].",
                    "{He} let {F} lean on {him}, and with the {obj} between them they went on, step by step.",
                ),
                (
                    "They came in last, but [everyone cheered|nobody laughed].",
                    "When they arrived, the race was long over.",
                ),
            ),
            (
                (
                    '"You have won more than a race," said [the old judge|the oldest camel], and {H} smiled.',
                    "The people gave {H} a [crown of flowers|cake|golden ribbon] all the same.",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
    Plot(
        "birthday",
        ("sharing", "friendship", "kindness"),
        ("gives {a_fkind} a present", "has a birthday", "goes to a birthday", "looks for a present", "makes a gift"),
        (
            (OPENING, FRIEND),
            (
                (
                    "[Tomorrow|Soon] it would be {F}'s birthday, but {H} had [no money|no present|nothing to give].",
                    "One day {F} had a birthday, and {H} did not know what to give {fhim}.",
                ),
                (
                    "{He} thought [all night|all day], until {he} saw {a_obj} that nobody wanted.",
                    "{He} looked [in every corner|everywhere], and at last {he} found {a_obj} at the bottom of an old bag.",
                ),
                (
                    "{He} cleaned the {obj} until it shone and [tied a ribbon around it|wrapped it in a palm leaf].",
                    "{H} worked on the {obj} until late at night, and in the morning it looked like new.",
                ),
                (
                    '"It is not much," said {H}, and {he} gave {F} the {obj}.',
                    "Others brought gold and silk. {H} was shy, but {he} gave {F} the {obj}.",
                ),
                (
                    '"It is just what I wanted," said {F}, and {fhe} [hugged {H}|laughed with joy].',
                    '{F} looked at the {obj} for a long time. "This is the best present of all," {fhe} said.',
                ),
            ),
            (
                (
                    "Then there was cake, and [everyone sang|they danced around the fire].",
                    "{F} keeps the {obj} to this day.",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
    Plot(
        "mystery",
        ("kindness", "friendship", "sharing"),
        ("solves a mystery", "looks for a thief", "sees something strange", "waits in the night", "has {a_obj}"),
        (
            (OPENING, HAS_OBJECT),
            (
                (
                    "But every [morning|night] the {obj} lay in another place. Who had moved it?",
                    "Then something strange happened. Every night somebody took the {obj} and brought it back before dawn.",
                ),
                (
                    "{H} asked everyone {in_home}, but nobody knew anything about it.",
                    "{H} looked for footprints, but the wind had blown them away.",
                ),
                (
                    "So one night {H} [hid behind a curtain|stayed awake|sat down behind a big basket] and waited.",
                    "That night {he} only closed one eye, and [waited|listened].",
                ),
                (
                    "At midnight somebody came on quiet feet. It was {F}, {a_friend}!",
                    "Then {he} saw who it was: {F}, {a_friend}, with the {obj} in {fhis} arms.",
                ),
                (
                    '"I only wanted to look at it," said {F}. "[I am so alone|I have nothing so beautiful]."',
                    '"Please do not be angry," said {F}. "I dream so well when it is near."',
                ),
            ),
            (
                (
                    '"You only had to ask," said {H}. "From now on the {obj} is yours on every second day."',
                    "{H} was not angry at all. {He} made tea, and they looked at the {obj} together.",
                ),
                ("@theme",),
                ("?", *CLOSING),
            ),
        ),
        with_trouble=False,
    ),
)
