# SPDX-License-Identifier: MIT
"""The slots of a session: places for sequences in every stage's KV cache, and what each holds. A finished sequence
stays until its room is needed, so that a request which begins with the same tokens goes on from there. Pure; the
scheduler's.

Where a prompt shares its beginning with a slot nobody uses, it takes that slot; where with one that is in use, or whose
own text would be lost while other room is free, the cache is copied to another. llama.cpp copies caches whole, and
what goes beyond the common beginning is then forgotten. A model with recurrent layers cannot forget a part: its slot is
gone on with only from exactly where it ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.frames import CacheOperation, Copy, Remove

MIN_REUSED = 16
"""Tokens; for fewer, nothing is gained by not computing them: the frame costs the same."""


@dataclass(slots=True)
class _Slot:
    """Attributes:
    tokens: What the cache holds when all frames sent so far are computed: the token of each position.
    is_exact: Whether it holds nothing beyond them.
    n_true: So many of them, at most, were computed as the beginning of a text with all of its tokens; None: all were.
    last_used: Ascending from slot to slot, by when they were given back.
    """

    tokens: list[int]
    is_busy: bool = False
    is_exact: bool = True
    n_true: int | None = None
    last_used: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes.

    Attributes:
        slot: Its sequence id.
        n_reused: Tokens of its prompt that the slot holds after the operations.
        operations: To be carried out before its first token.
    """

    slot: int
    n_reused: int
    operations: tuple[CacheOperation, ...]


class Slots:
    """All slots of a session.

    Args:
        can_forget_part: Whether the model's memory can forget the end of a sequence.
    """

    def __init__(self, n_slots: int, *, can_forget_part: bool = True) -> None:
        self._slots = [_Slot([]) for _ in range(n_slots)]
        self._can_forget_part = can_forget_part
        self._n_given_back = 0
        self.n_free = n_slots

    def tokens(self, slot: int) -> list[int]:
        """What a slot holds; whoever has the slot appends what it sends."""
        return self._slots[slot].tokens

    def take(self, prompt: Sequence[int], *, reuse: bool = True) -> Place:
        """A free slot for a prompt (there is one), with as much of the prompt in it as can be had. Its last token is
        never among that: it has to be computed, for its logits.

        Args:
            reuse: Whether what is cached may serve it.
        """
        source, n_common = self._longest(list(prompt[:-1])) if reuse else (0, 0)
        if n_common < MIN_REUSED:
            place = self._fresh()
        elif self._takes_over(source, n_common):
            place = Place(source, n_common, self._forget_beyond(source, source, n_common))
        else:
            target = self._emptiest(beside=source)
            copy: tuple[CacheOperation, ...] = (Remove(target), Copy(source, target))
            place = Place(target, n_common, (*copy, *self._forget_beyond(source, target, n_common)))
        slot = self._slots[place.slot]
        slot.tokens = list(prompt[: place.n_reused])
        slot.is_busy, slot.is_exact, slot.n_true = True, True, None
        self.n_free -= 1
        return place

    def note_shift(self, slot: int, n_keep: int) -> None:
        """Its text has lost tokens after the first `n_keep`, and those after them have moved up."""
        held = self._slots[slot]
        held.n_true = n_keep if held.n_true is None else min(held.n_true, n_keep)

    def give_back(self, slot: int, n_valid: int) -> None:
        """Nobody uses it any more.

        Args:
            n_valid: So many of its tokens are right; what is beyond them in the cache is forgotten before it is used.
        """
        held = self._slots[slot]
        if held.n_true is not None:
            n_valid = min(n_valid, held.n_true)
        held.is_exact = n_valid == len(held.tokens)
        del held.tokens[n_valid:]
        if not held.is_exact and not self._can_forget_part:
            held.tokens.clear()
        held.is_busy = False
        self._n_given_back += 1
        held.last_used = self._n_given_back
        self.n_free += 1

    def clear(self) -> None:
        """The caches are new and empty; who has a slot keeps it."""
        for slot in self._slots:
            slot.tokens, slot.is_exact, slot.n_true = [], True, None

    def _longest(self, prompt: list[int]) -> tuple[int, int]:
        """The slot that has most of the prompt, and how many tokens. Among equals one that is free."""
        best, n_best = 0, 0
        for number, slot in enumerate(self._slots):
            n_common = n_common_tokens(slot.tokens if slot.n_true is None else slot.tokens[: slot.n_true], prompt)
            if not self._can_forget_part and (n_common < len(slot.tokens) or slot.is_busy):
                continue
            if (n_common, not slot.is_busy) > (n_best, not self._slots[best].is_busy):
                best, n_best = number, n_common
        return best, n_best

    def _takes_over(self, source: int, n_common: int) -> bool:
        """Rather than copy: nobody uses it, and most of it is the prompt's or there is no empty slot."""
        slot = self._slots[source]
        if slot.is_busy:
            return False
        return 2 * n_common >= len(slot.tokens) or not any(self._is_empty(other) for other in self._slots)

    def _forget_beyond(self, source: int, target: int, n_common: int) -> tuple[CacheOperation, ...]:
        slot = self._slots[source]
        if slot.is_exact and not slot.is_busy and n_common == len(slot.tokens):
            return ()
        return (Remove(target, n_common),)

    def _fresh(self) -> Place:
        number = self._emptiest()
        slot = self._slots[number]
        return Place(number, 0, () if not slot.tokens and slot.is_exact else (Remove(number),))

    def _emptiest(self, beside: int | None = None) -> int:
        """The first empty slot (llama.cpp computes sequences with consecutive ids together), else the one that was
        given back first."""
        free = [number for number, slot in enumerate(self._slots) if not slot.is_busy and number != beside]
        return min(free, key=lambda number: (not self._is_empty(self._slots[number]), self._age(number), number))

    def _age(self, number: int) -> int:
        return self._slots[number].last_used if self._slots[number].tokens else 0

    @staticmethod
    def _is_empty(slot: _Slot) -> bool:
        return not slot.is_busy and not slot.tokens


def n_common_tokens(some: Sequence[int | None], others: Sequence[int | None]) -> int:
    """How many tokens both begin with."""
    n_same, n_end = 0, min(len(some), len(others))
    # Slices are compared in C; halving the span costs no more than twice one comparison.
    while n_same < n_end:
        middle = (n_same + n_end + 1) // 2
        if some[n_same:middle] == others[n_same:middle]:
            n_same = middle
        else:
            n_end = middle - 1
    return n_same
