# SPDX-License-Identifier: MIT
"""Conditions on a text that hold all at once (patterns, a length, "none of these names"), as rules of a grammar.

Each condition is a machine that reads character by character; their product is walked once, what cannot come to an end
is cut off, and every state becomes a rule. So the grammar never leads into a dead end, and at each character there is
one rule to follow. Patterns become machines by Thompson's construction, states of which are sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from coordinator.errors import SchemaError
from coordinator.json_schema.expression import (
    EMPTY,
    LAST_CHARACTER,
    Chars,
    Choice,
    Expression,
    Ranges,
    Reference,
    Repeat,
    Sequence,
    Text,
    choice,
    contains,
    ranges_of,
    sequence,
)
from coordinator.json_schema.grammar import Grammar
from coordinator.json_schema.work import Work

State: TypeAlias = Hashable

MAX_STATES = 4096
"""Of the product, each of which becomes a rule at most."""
_MAX_PLACES = 8192
"""Of one pattern, with its counted repetitions written out."""


class TooComplexError(Exception):
    """Conditions whose machine would be larger than can be had; whoever knows the place in the schema tells it."""


class Machine(Protocol):
    """A condition on a text. A state of None: whatever follows, it does not hold."""

    @property
    def start(self) -> State: ...

    @property
    def cuts(self) -> frozenset[int]:
        """Characters at which something new begins: between two of them all behave alike."""
        ...

    def step(self, state: State, code: int) -> State | None: ...

    def accepts(self, state: State) -> bool: ...


class Matching:
    """Texts that an expression matches as a whole; with `negated`, all others.

    Raises:
        TooComplexError: it repeats more than can be written out.
    """

    def __init__(self, expression: Expression, work: Work, *, negated: bool = False) -> None:
        self._work = work
        self._empty: list[list[int]] = []
        self._reading: list[list[tuple[Ranges, int]]] = []
        self._known: dict[tuple[State, int], State | None] = {}
        self._negated = negated
        first, self._last = self._add(expression)
        self.start: State = self._closure([first])
        self.cuts = frozenset(
            cut for moves in self._reading for ranges, _ in moves for a, b in ranges for cut in (a, b + 1)
        )

    def step(self, state: State, code: int) -> State | None:
        key = (state, code)
        if key not in self._known:
            self._known[key] = self._step(state, code)
        return self._known[key]

    def _step(self, state: State, code: int) -> State | None:
        assert isinstance(state, frozenset)
        self._work.spend(1 + len(state))
        moves = (move for place in state for move in self._reading[place])
        reached = self._closure([target for ranges, target in moves if contains(ranges, code)])
        return reached if reached or self._negated else None

    def accepts(self, state: State) -> bool:
        assert isinstance(state, frozenset)
        return (self._last in state) is not self._negated

    def matches(self, text: str) -> bool:
        """Whether a whole text does."""
        state: State | None = self.start
        for char in text:
            state = None if state is None else self.step(state, ord(char))
        return state is not None and self.accepts(state)

    def _place(self) -> int:
        if len(self._empty) >= _MAX_PLACES:
            raise TooComplexError
        self._empty.append([])
        self._reading.append([])
        return len(self._empty) - 1

    def _add(self, expression: Expression) -> tuple[int, int]:
        first, last = self._place(), self._place()
        if isinstance(expression, Chars):
            self._reading[first].append((expression.ranges, last))
        elif isinstance(expression, Text):
            self._chain(first, last, [Chars(((ord(char), ord(char)),)) for char in expression.text])
        elif isinstance(expression, Sequence):
            self._chain(first, last, expression.items)
        elif isinstance(expression, Choice):
            for option in expression.options:
                self._chain(first, last, [option])
        elif isinstance(expression, Repeat):
            self._repeat(first, last, expression)
        else:
            raise AssertionError("rules of a grammar are not part of a condition")
        return first, last

    def _chain(self, first: int, last: int, items: Iterable[Expression]) -> None:
        at = first
        for item in items:
            start, end = self._add(item)
            self._empty[at].append(start)
            at = end
        self._empty[at].append(last)

    def _repeat(self, first: int, last: int, repeat: Repeat) -> None:
        at = first
        for _ in range(repeat.least):
            start, end = self._add(repeat.item)
            self._empty[at].append(start)
            at = end
        if repeat.most is None:
            start, end = self._add(repeat.item)
            self._empty[at] += [start, last]
            self._empty[end] += [start, last]
            return
        for _ in range(repeat.most - repeat.least):
            start, end = self._add(repeat.item)
            self._empty[at] += [start, last]
            at = end
        self._empty[at].append(last)

    def _closure(self, places: list[int]) -> frozenset[int]:
        seen, todo = set(places), list(places)
        while todo:
            for place in self._empty[todo.pop()]:
                if place not in seen:
                    seen.add(place)
                    todo.append(place)
        # Only these decide what comes.
        return frozenset(place for place in seen if self._reading[place] or place == self._last)


@dataclass(frozen=True, slots=True)
class Length:
    """So many characters, at least and at most."""

    least: int
    most: int | None
    start: State = 0
    cuts: frozenset[int] = frozenset()

    def step(self, state: State, code: int) -> State | None:
        assert isinstance(state, int)
        if self.most is None:
            return min(self.least, state + 1)
        return state + 1 if state < self.most else None

    def accepts(self, state: State) -> bool:
        assert isinstance(state, int)
        return state >= self.least


@dataclass(frozen=True, slots=True)
class Multiple:
    """Digits, with or without a sign, of a number that `factor` divides."""

    factor: int
    start: State = 0
    cuts: frozenset[int] = field(default=frozenset(range(0x2D, 0x3B)))

    def step(self, state: State, code: int) -> State | None:
        assert isinstance(state, int)
        return state if code == ord("-") else (state * 10 + code - ord("0")) % self.factor

    def accepts(self, state: State) -> bool:
        return state == 0


@dataclass(slots=True)
class _Node:
    accepts: bool
    moves: list[tuple[Ranges, int]]


def rules_of(
    machines: list[Machine],
    grammar: Grammar,
    place: str,
    *,
    end: Expression = EMPTY,
    write: Callable[[Ranges], Expression] = Chars,
    max_states: int = MAX_STATES,
) -> Expression | None:
    """Rules for the texts that satisfy all machines; None if none does.

    Args:
        machines: one or more.
        grammar: takes the rules.
        place: in the schema.
        end: what follows the text.
        write: how a character of the text is written.
        max_states: how many may be.

    Raises:
        TooComplexError: too many states.
    """
    nodes = _without_dead_ends(_walk(machines, grammar.work, max_states))
    if not nodes:
        return None
    entries = [0] * len(nodes)
    for node in nodes:
        for _, target in node.moves:
            entries[target] += 1
    # States that one move leads to, and that leave no choice, are written where they are used.
    inlined = [i > 0 and entries[i] == 1 and len(node.moves) + node.accepts == 1 for i, node in enumerate(nodes)]
    names = {i: grammar.reserve("s", place) for i in range(len(nodes)) if not inlined[i]}
    written: dict[Ranges, Expression] = {}

    def one(ranges: Ranges) -> Expression:
        if ranges not in written:
            written[ranges] = grammar.compact(write(ranges), "c", place)
        return written[ranges]

    def option(ranges: Ranges, target: int) -> Expression:
        items = [one(ranges)]
        while inlined[target]:
            if not nodes[target].moves:
                return sequence(*items, end)
            ((ranges, target),) = nodes[target].moves
            items.append(one(ranges))
        return sequence(*items, names[target])

    for i, name in names.items():
        options = [option(*move) for move in nodes[i].moves]
        grammar.define(name, choice([*options, *([end] if nodes[i].accepts else [])]))
    return names[0]


def _walk(machines: list[Machine], work: Work, max_states: int) -> list[_Node]:
    """The product's states that can be reached; the first is where it starts."""
    cuts = sorted({0, LAST_CHARACTER + 1}.union(*(machine.cuts for machine in machines)))
    pieces = [(first, end - 1) for first, end in itertools.pairwise(cuts)]
    start = tuple(machine.start for machine in machines)
    numbers: dict[tuple[State, ...], int] = {start: 0}
    todo, nodes = [start], []
    for states in todo:
        work.spend(len(pieces))
        if len(numbers) > max_states:
            raise TooComplexError
        targets: dict[int, list[tuple[int, int]]] = {}
        for piece in pieces:
            reached = _step(machines, states, piece[0])
            if reached is None:
                continue
            if reached not in numbers:
                numbers[reached] = len(numbers)
                todo.append(reached)
            targets.setdefault(numbers[reached], []).append(piece)
        accepts = all(machine.accepts(state) for machine, state in zip(machines, states, strict=True))
        nodes.append(_Node(accepts, [(ranges_of(pairs), target) for target, pairs in targets.items()]))
    return nodes


def _step(machines: list[Machine], states: tuple[State, ...], code: int) -> tuple[State, ...] | None:
    reached: list[State] = []
    for machine, state in zip(machines, states, strict=True):
        following = machine.step(state, code)
        if following is None:
            return None
        reached.append(following)
    return tuple(reached)


def _without_dead_ends(nodes: list[_Node]) -> list[_Node]:
    """The states from which a text can still end well, numbered anew; none if that is not so for the first."""
    before: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        for _, target in node.moves:
            before[target].append(i)
    alive = {i for i, node in enumerate(nodes) if node.accepts}
    todo = list(alive)
    while todo:
        for i in before[todo.pop()]:
            if i not in alive:
                alive.add(i)
                todo.append(i)
    if 0 not in alive:
        return []
    numbers = {old: new for new, old in enumerate(sorted(alive))}
    return [
        _Node(nodes[i].accepts, [(ranges, numbers[target]) for ranges, target in nodes[i].moves if target in numbers])
        for i in sorted(alive)
    ]


def too_complex(what: str, place: str) -> SchemaError:
    """The refusal of conditions that raised TooComplexError."""
    return SchemaError(f"{what} needs more than {MAX_STATES} states of a grammar: make it simpler", place)


__all__ = ["Length", "Machine", "Matching", "Multiple", "Reference", "TooComplexError", "rules_of", "too_complex"]
