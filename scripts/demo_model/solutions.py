# SPDX-License-Identifier: MIT
"""How each trouble comes, what it does, how a thing of each use helps against it, and how it ends.

Every sentence is a `grammar.expand` template. `{T}` is the trouble's noun, `{a_T}` its first mention,
`{H}` and `{F}` the two friends, `{obj}` the thing.
"""

from __future__ import annotations

ARRIVE: dict[str, tuple[str, ...]] = {
    "storm": (
        "[On the third day|In the afternoon|Before noon] {a_T} [came|rose] out of the [west|east], and the sky turned"
        " [brown|yellow|dark].",
        "[Suddenly|All at once] {a_T} came over the dunes. [Sand flew everywhere|The sand began to fly].",
        "Then {a_T} began to blow, and [nobody could see the road|the road disappeared under the sand].",
    ),
    "rain": (
        "[Then|In the evening|Suddenly] {a_T} came. [The sky was full of thunder|Water ran down every hill].",
        "[Black|Dark] clouds [came up|gathered], and soon {a_T} was falling on the [road|desert|hills].",
    ),
    "fog": (
        "[One morning|Early in the morning|Soon] {a_T} lay over everything. [The road was gone|Nobody could see far].",
        "[Then|Slowly] {a_T} came up from the valley and hid the [road|hills|path].",
    ),
    "dark": (
        "[Soon|Then|After sunset] it was {a_T}. [There was no moon|No star could be seen].",
        "The sun went down and {a_T} [fell over|covered] the [sand|land|hills]. [Even the moon was hiding.|]",
    ),
    "cold": (
        "[That night|In the evening|Then] {a_T} came, and [everyone began to shiver|the water turned to ice].",
        "[Nobody had expected it, but|High in the hills] {a_T} was waiting. [Their noses turned red.|Their feet hurt.|]",
    ),
    "well": (
        "[At noon|In the evening|After two days] they came to {a_T}. [There was not one drop of water|They were thirsty].",
        "[They had hoped to drink, but|They looked down and saw that] they had found only {a_T}.",
    ),
    "river": (
        "[Then|After the last hill|At noon] {a_T} lay across the road. [The bridge was gone|The water was fast and deep].",
        "[But|Soon] the way was cut off by {a_T}, and [there was no bridge|the bridge had been washed away].",
    ),
    "wheel": (
        "[Then there was a loud crack|Crack, went the wood], and there they were with {a_T}.",
        "[Halfway|Far from any town] they had to stop because of {a_T}. [Bags lay all over the sand.|]",
    ),
    "noise": (
        "[In the night|Just before dawn|At sunset] they heard {a_T}. [It came from behind the rocks|It came closer].",
        "[Suddenly|Then] there was {a_T} [in the dark|behind the hill]. [Everyone stopped and listened.|]",
    ),
    "heat": (
        "[By noon|The next day] there was {a_T}. [The sand burned under their feet|There was no shade anywhere].",
        "[Then came|They had to face] {a_T}, and [even the lizards hid under stones|the air shook over the sand].",
    ),
    "maze": (
        "[Then|On the second day|Soon] they came into {a_T}, where [every way looked the same|each turn led to another].",
        "[The road ended in|Between them and the road lay] {a_T}. [They walked in circles.|They were lost.]",
    ),
    "mountain": (
        "[Then|At last|On the second day] {a_T} stood before them. [It was too high to go around|There was no road up].",
        "[But|Now] their way was blocked by {a_T}, [grey|tall] and [silent|bare].",
    ),
}

WORRY: tuple[str, ...] = (
    '"What [shall|should] we do now?" asked {F}.',
    '"I am [afraid|scared]," [said|whispered] {F}.',
    '"We cannot go on," said {F}. "[It is too far|It is too hard|I am too tired]."',
    "{F} wanted to turn back, but {H} [stayed calm|shook {his} head|took a deep breath].",
    "For a moment {H} did not know what to do.",
    "{H} was afraid too, but {he} [thought hard|did not give up|thought of {his} friend].",
    '"Stay close to me," said {H}. "[I have an idea|We will find a way]."',
)

AFTER: dict[str, tuple[str, ...]] = {
    "storm": ("By morning the {T} was gone and the sky was blue.", "At last the {T} grew tired and the air was still."),
    "rain": (
        "When the {T} stopped, the whole desert smelled of flowers.",
        "At last the {T} was over and the sun came out.",
    ),
    "fog": ("Slowly the {T} went away and the road lay before them.", "Then the sun came up and the {T} was gone."),
    "dark": ("When the sun came up, they laughed about the {T}.", "They were no longer afraid of the {T}."),
    "cold": (
        "In the morning the sun came up and the {T} was only a memory.",
        "So they came through the {T} safe and well.",
    ),
    "well": ("That night everyone had enough to drink.", "Nobody went to sleep thirsty that night."),
    "river": ("Soon everyone stood on the other side of the {T}.", "They looked back at the {T} and cheered."),
    "wheel": ("Soon they were on the road again.", "Before sunset the road was under their feet again."),
    "noise": ("Nobody was afraid of the {T} any more.", "They laughed, and the {T} was no mystery any more."),
    "heat": ("In the evening a cool wind came and the {T} was over.", "When the sun went down, everyone was well."),
    "maze": ("Before evening they were out of the {T}.", "At last the {T} lay behind them."),
    "mountain": ("From the top of the {T} they could see the whole world.", "By evening the {T} lay behind them."),
}

SOLVE: dict[str, dict[str, tuple[str, ...]]] = {
    "storm": {
        "light": (
            "{H} lit the {obj} and held it up high. Its light shone through the flying sand, and {F} followed it"
            " [to a safe cave|behind a big rock|step by step].",
        ),
        "sound": (
            "{H} played the {obj} as loudly as {he} could. {F} could not see {him}, but {fhe} could hear the {obj},"
            " and so they [stayed together|found each other].",
        ),
        "warmth": ("{H} pulled the {obj} over {F} and {himself}, and under it they waited while the {T} howled.",),
        "food": ("They hid in a cave, and {H} shared {food}. [Nobody was hungry and nobody was sad.|]",),
        "rope": ("{H} tied one end of the {obj} to {F} and the other to {himself}. Now the {T} could not part them.",),
        "guide": (
            "{H} looked at the {obj} and found a cave close by. They ran there and the {T} could not reach them.",
        ),
        "tool": ("{H} took the {obj} and made a wall of stones and sand. Behind it they were safe from the {T}.",),
        "curio": ("{H} put the {obj} on top of a rock as a sign. {F} saw it through the sand and came back to {him}.",),
    },
    "rain": {
        "light": ("{H} lit the {obj}. In its light they found a dry cave and sat there until the {T} was over.",),
        "sound": ("{H} played a tune on the {obj}, and the tune was so cheerful that nobody minded the {T}.",),
        "warmth": ("{H} made a roof of the {obj}, and under it there was just enough room for {F} too.",),
        "food": ("They sat under a rock, and {H} shared {food} until the {T} was over.",),
        "rope": ("{H} hung the {obj} between two trees and laid big leaves over it. That was a fine roof.",),
        "guide": ("{H} kept the {obj} dry under {his} arm and read the way to the nearest house.",),
        "tool": ("With the {obj} {H} dug a little ditch, and the water ran around them and not over them.",),
        "curio": ("{H} showed {F} the {obj} and made up a long tale about it. The {T} was over before the tale was.",),
    },
    "fog": {
        "light": ("{H} lit the {obj}, and it glowed like a small sun. {F} walked right behind it.",),
        "sound": ("{H} played the {obj} at every step, so {F} always knew where {he} was.",),
        "warmth": ("{H} waved the {obj} like a flag, and {F} could see its colour even in the {T}.",),
        "food": ('"Let us eat first," said {H}. They shared {food} and waited until they could see.',),
        "rope": ("{H} gave {F} one end of the {obj} and held the other. So nobody was lost in the {T}.",),
        "guide": ("{H} trusted the {obj}. It told {him} where to turn, even when nothing could be seen.",),
        "tool": ("{H} knocked on the ground with the {obj} to feel where the road was hard.",),
        "curio": (
            "{H} left the {obj} beside the road as a mark. When they saw it again, they knew which way was wrong.",
        ),
    },
    "dark": {
        "light": ("Then {H} lit the {obj}. A warm light fell on the sand, and the {T} did not look so big any more.",),
        "sound": ("Then {H} played softly on the {obj}. The tune was like a friend, and {F} was not afraid any more.",),
        "warmth": ("{H} spread out the {obj}, and they lay on it side by side and told each other stories.",),
        "food": (
            "{H} took out the {obj}, and they had supper together. With a full belly the {T} was only half as dark.",
        ),
        "rope": ("{H} held one end of the {obj} and {F} held the other, and neither of them was alone.",),
        "guide": ("{H} could not read the {obj} in the dark, but {he} knew every line of it by heart.",),
        "tool": ("{H} struck the {obj} against a stone. There was a spark, and soon they had a little fire.",),
        "curio": ('{H} put the {obj} into {F}\'s arms. "Hold it," {he} said, "and you will not feel alone."',),
    },
    "cold": {
        "light": ("{H} lit the {obj}, and they warmed their feet at it, first {F} and then {himself}.",),
        "sound": ("{H} played the {obj}, and {F} danced to it until they were both warm.",),
        "warmth": ("{H} wrapped the {obj} around {F}. It was big enough for two, so both of them were warm.",),
        "food": ("{H} shared {food}. It was not much, but it warmed them from the inside.",),
        "rope": ("With the {obj} {H} tied branches together and made a small hut that kept out the wind.",),
        "guide": ("The {obj} showed {H} a little hut behind the hill, and in the hut there was a fire.",),
        "tool": ("{H} cut dry wood with the {obj}, and soon a fire was burning.",),
        "curio": ("{H} and {F} passed the {obj} from one to the other, faster and faster, until they were warm.",),
    },
    "well": {
        "light": ("{H} lit the {obj} and let it down. Deep below something glittered: there was still some water!",),
        "sound": (
            "{H} sounded the {obj} down into the {T}. From the echo {he} could hear that there was water below.",
        ),
        "warmth": (
            "{H} laid the {obj} out on the ground at night. In the morning it was wet with dew, enough for all.",
        ),
        "food": ("{H} shared {food}. Everyone had a little, and a little was enough.",),
        "rope": ("{H} tied the {obj} to a bucket and let it down as far as it would go. It came up full of water.",),
        "guide": ("The {obj} showed another place to dig, only a hundred steps away. There the sand was wet.",),
        "tool": ("{H} dug with the {obj}, and then {F} dug. They took turns until water came up out of the sand.",),
        "curio": ("{H} dropped the {obj}, and it rolled under a bush. Where it lay, the ground was wet: a spring!",),
    },
    "river": {
        "light": ("{H} swung the {obj} to and fro. A ferryman saw the light and came to fetch them with his boat.",),
        "sound": ("{H} played the {obj}, and a ferryman on the other side heard it and came with his boat.",),
        "warmth": ("{H} tied the {obj} to two poles and made a sail for an old raft.",),
        "food": ("{H} gave {food} to a hungry ferryman, and he gladly took them across.",),
        "rope": ("{H} threw the {obj} around a tree on the other side. They held on to it and crossed the {T}.",),
        "guide": ("The {obj} told of a place where the water was low. {H} led the way, and only their feet got wet.",),
        "tool": ("With the {obj} {H} built a raft of old wood. It was not pretty, but it carried them.",),
        "curio": (
            "{H} showed the {obj} to a ferryman. He had never seen one like it, and he took them across for a look.",
        ),
    },
    "wheel": {
        "light": ("It was getting late, so {H} held the {obj} while {F} put the pieces together again.",),
        "sound": ("{H} sounded the {obj} until a blacksmith heard it and came to help.",),
        "warmth": ("{H} spread out the {obj} and tied the load into it, and they carried it together.",),
        "food": ("They were too tired to work, so {H} shared {food}. Then they mended it together.",),
        "rope": ("{H} wound the {obj} around the broken wood, once, twice, ten times. It held!",),
        "guide": ("The {obj} showed a workshop close by, and the people there were glad to help.",),
        "tool": ("{H} took out the {obj} and set to work. {F} held the wood, and soon it was mended.",),
        "curio": ("{H} pushed the {obj} under the load to hold it up, and {F} put the pieces together again.",),
    },
    "noise": {
        "light": ("{H} lit the {obj} and went to look. Behind the rocks sat {a_lost}, lost and sad.",),
        "sound": ("{H} answered on the {obj}. Something answered back: it was only {a_lost} who felt alone.",),
        "warmth": ("{H} went to look. It was {a_lost}, shaking with cold, so {he} gave it the {obj}.",),
        "food": ("{H} went to look. It was the empty belly of {a_lost}! {He} shared {food}.",),
        "rope": ("{H} went to look. {A_lost} had fallen into a hole, and {he} pulled it out with the {obj}.",),
        "guide": ("{H} went to look. It was {a_lost} who had lost the way, so {he} showed it the {obj}.",),
        "tool": ("{H} went to look. {A_lost} was stuck under a stone, and {he} freed it with the {obj}.",),
        "curio": ("{H} went to look. It was {a_lost}, crying. {He} let it play with the {obj}, and it smiled.",),
    },
    "heat": {
        "light": ('{H} said, "Let us sleep by day and walk by night." And so they did, by the light of the {obj}.',),
        "sound": ("{H} played the {obj} to keep up their spirits, and step by step they came to a shady tree.",),
        "warmth": ("{H} hung the {obj} between two rocks. In its shade they slept until evening.",),
        "food": ("{H} shared {food}. Everyone took one small part, and it was enough.",),
        "rope": ("With the {obj} {H} tied palm leaves together and made a roof against the sun.",),
        "guide": ("The {obj} showed {H} the way to a pool under three palm trees. They jumped right in.",),
        "tool": ("{H} dug a hole with the {obj}. Down in the sand it was cool, and they rested there.",),
        "curio": ("{H} made a game of it: who carried the {obj} could walk in the other's shadow.",),
    },
    "maze": {
        "light": ("{H} put the {obj} on a high stone. Whenever they saw its light, they knew where they had been.",),
        "sound": ("{H} sounded the {obj} and listened. Where no echo came back, there was the way out.",),
        "warmth": ("{H} pulled threads from the {obj} and laid them on the ground, so they never took one way twice.",),
        "food": ("{H} let small crumbs fall behind them, and when they were tired, they shared {food}.",),
        "rope": ("{H} tied the {obj} to a stone and held the other end. So they could always find the way back.",),
        "guide": ('{H} opened the {obj} and turned it around twice. "Left," {he} said, "and then left again."',),
        "tool": ("With the {obj} {H} made a mark at every turn, and they never took the wrong way twice.",),
        "curio": (
            "{H} left the {obj} at the first turn as a mark, and from there they tried one way after the other.",
        ),
    },
    "mountain": {
        "light": ("{H} lit the {obj} and found a dark tunnel that led right through to the other side.",),
        "sound": ("{H} sounded the {obj}. Mountain goats heard it and came to show them a secret path.",),
        "warmth": ("They climbed very slowly. At night they slept under the {obj}, close together.",),
        "food": ("They climbed very slowly. At every rest {H} shared {food}, and that gave them strength.",),
        "rope": ("{H} climbed first and let down the {obj}. {F} held on tight and came up after {him}.",),
        "guide": ("The {obj} told of an old path with a thousand steps. {H} found the first one under the grass.",),
        "tool": ("With the {obj} {H} cut one step after another, and {F} came up behind {him}.",),
        "curio": ('{H} said, "We will carry the {obj} in turns and rest at every bend." And so they came to the top.',),
    },
}
