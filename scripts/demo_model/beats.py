# SPDX-License-Identifier: MIT
"""Beats that several plots share: how stories open, who is met, how they end.

A beat is a pool of `grammar.expand` templates, of which a story takes one.
"""

from __future__ import annotations

Beat = tuple[str, ...]

OPENING: Beat = (
    "Once upon a time, [there was|there lived] {a_thero} named {H}. {He} lived {in_home}.",
    "Once upon a time {a_thero} named {H} lived {in_home}.",
    "Once, {a_thero} named {H} lived {in_home}.",
    "The sun [came up|went down] over the desert. {In_home} {a_thero} named {H} [looked up|smiled|yawned].",
    "It was [early|late|a quiet evening|a cold morning] in the desert, and {a_thero} named {H} was still awake {in_home}.",
    "The wind was [warm|soft] and the stars were bright. {In_home} lived {a_thero} named {H}.",
    "Once there was {a_thero} [named|called] {H}, who lived {in_home}.",
    "There was once {a_thero} named {H}. {His} home was {in_home}.",
    "Long ago, {in_home}, there lived {a_thero} named {H}.",
    "Long, long ago there was {a_thero} called {H}, [and everyone {in_home} knew {him}|who lived {in_home}].",
    "One [day|morning|evening], {a_thero} named {H} [went for a walk|looked up at the sky|sat by the fire] {in_home}.",
    "[In the old days|Many years ago], {a_thero} named {H} lived {in_home}.",
    "{H} was {a_thero} who lived {in_home}.",
    "{H} the {kind} lived {in_home}. {He} was [very|rather|a little] {trait}.",
    "{In_home} there lived {a_thero} named {H}.",
    "Far away, {in_home}, lived {a_thero} named {H}.",
    "This is the story of {H}, {a_thero} [from {home}|who lived {in_home}].",
    "Nobody {in_home} was as {trait} as {H} the {kind}.",
)

HABIT: Beat = (
    "Every [morning|evening] {he} [looked at the hills|counted the stars|fetched water from the well|sang a little tune].",
    "{He} loved [the stars|the smell of warm bread|old songs|long walks|the first light of the day].",
    "{He} was [not very big, but {he} had a big heart|always ready to help|known for {his} good heart].",
    "[All day long|From morning to evening] {he} asked questions about the [world|desert|stars].",
    "{His} [ears were|nose was|feet were|heart was] [bigger|quicker|softer] than most.",
    "{He} had never been farther than the [last well|old gate|nearest hill].",
)

HAS_OBJECT: Beat = (
    "{He} had {a_obj}, and {he} took it everywhere.",
    "What {he} loved most was {a_obj} that {his} [grandmother|grandfather|mother|father] had given {him}.",
    "{He} owned only one thing in the world: {a_obj}.",
    "[On {his} back|In {his} bag|At {his} side] {he} always carried {a_obj}.",
    "One day {his} [grandmother|grandfather|aunt|uncle] gave {him} {a_obj} and told {him} to [take good care of it|use it well].",
    "One [day|morning] {he} found {a_obj} [in the sand|under a palm tree|beside the road|behind the well].",
    "{He} bought {a_obj} from an old merchant for [two dates|three coins|a song].",
)

FIND_OBJECT: Beat = (
    "One [day|morning|evening] {he} found {a_obj} [in the sand|under a palm tree|beside the road|behind the well].",
    "[Walking home|On the road|While playing], {H} found {a_obj}. It lay [in the grass|in the sand|between two stones].",
    "One day the wind blew the sand away, and there lay {a_obj}. {H} picked it up [carefully|with great joy].",
)

FRIEND: Beat = (
    "{His} best friend was {F}, {a_friend}.",
    "{He} had a friend named {F}, {a_friend}.",
    "Next door lived {F}, {a_friend}, and the two were [friends|often together|like brother and sister].",
    "{F}, {a_friend}, was {his} [best friend|neighbour|oldest friend], and they [played|worked|walked] together every day.",
    "Every day {he} met {a_friend} named {F} at the [well|market|old wall].",
    "Wherever {H} went, {F} went too. {F} was {a_friend}.",
)

MEET: Beat = (
    'On the way {he} met {F}, {a_friend}. "May I come with you?" asked {F}. "[Of course|Yes, please|Gladly]," said {H}.',
    "At the [first|second] well {he} met {a_friend} named {F}, and they [walked on together|became friends at once].",
    "{His} best friend, {a_friend} named {F}, went with {him}.",
    '{F}, {a_friend}, wanted to come too. "Two are better than one," said {F}.',
    "Soon {a_friend} named {F} joined {him}. {Fhe} [knew many songs|asked many questions|walked slowly but never stopped].",
)

SET_OUT: Beat = (
    "One [day|morning] {H} set out for {dest}.",
    "{H} wanted to [see|visit|reach] {dest}, [so one morning {he} set out|which was far away].",
    "One [day|morning] {H} had to bring [salt|a letter|medicine|tea|flour|cloth] to {dest}.",
    '"I will go to {dest}," said {H} one morning, and {he} [packed {his} bag|started to walk].',
    "The road to {dest} was long, but {H} was not afraid of long roads.",
)

THEME_ENDINGS: dict[str, Beat] = {
    "friendship": (
        "And {H} and {F} stayed friends [for the rest of their lives|for ever].",
        '"[A good friend is better than gold|With a friend every road is short]," said {F}, and {H} [smiled|agreed].',
        "From that day on {H} and {F} did everything together.",
    ),
    "courage": (
        '"You were very brave," said {F}. "I was afraid," said {H}, "but I did it anyway."',
        "{H} had learned that to be brave is to be afraid and to go on.",
        "And from that day on everyone called {him} {H} the Brave.",
    ),
    "sharing": (
        "{H} had learned that what is shared grows bigger.",
        '"What we share is worth twice as much," said {H}, and {F} [agreed|nodded].',
        "And from that day on {H} shared everything with {his} friends.",
    ),
    "kindness": (
        "A kind deed always finds its way back, and {H} never forgot it.",
        '"You were kind to me," said {F}, "and I will never forget it."',
        "And everyone {in_home} spoke of how kind {H} was.",
    ),
    "patience": (
        "{H} had learned that the one who walks slowly arrives too.",
        '"Step by step," said {H}, "is how every long road is walked."',
        "And {H} was never in a hurry again.",
    ),
    "hope": (
        "{H} never gave up hope again, not even on the darkest day.",
        '"There is always hope," said {F}, and {H} knew that it was true.',
        "And whenever somebody lost hope, {H} told them this story.",
    ),
    "helping": (
        '"Each of us carried a part," said {H}, "and so it was not heavy."',
        "{H} had learned that nobody has to carry everything alone.",
        "And from that day on, whenever somebody needed help, {H} came.",
    ),
    "home": (
        "{H} was glad to be home again, and {he} slept very well that night.",
        '"The best thing about a journey is coming home," said {H}.',
        "And of all the places in the world {H} still loved home best.",
    ),
}

CLOSING: Beat = (
    "That night they slept under a thousand stars.",
    "They drank tea together and laughed until the moon came up.",
    "And they lived happily ever after.",
    "The stars came out, one by one, and all was well.",
    "Everyone sang and danced until late in the night.",
    "And if you go there today, you can still hear people tell of it.",
    "Then they went to sleep, tired and happy.",
    "The end.",
)

ARRIVAL: Beat = (
    "[At last|The next day|In the evening] they came to {dest}. [Everyone was glad to see them|There was warm bread for all].",
    "When they reached {dest_again}, [the people cheered|there was a feast|children ran out to meet them].",
    "They came to {dest_again} [just in time|before nightfall|tired but happy], [and told everyone what had happened|].",
)
