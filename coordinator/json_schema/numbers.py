# SPDX-License-Identifier: MIT
"""Numbers between two bounds, as an expression over their digits. Pure.

Bounds are exact: of what is written, all lies within, also after a reader made it a 64-bit float.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

from coordinator.json_schema.expression import (
    DIGIT,
    EMPTY,
    Chars,
    Expression,
    Repeat,
    Text,
    choice,
    sequence,
)

_DIGITS = 15
"""Digits that a 64-bit float tells apart; what has no bound has so many before its point."""
_DECIMALS = 8
"""After the point, at most."""
MAX_BOUND = 10**40
"""Bounds further out are no bounds: no number that is written comes near."""

_NON_ZERO = Chars(((0x31, 0x39),))
_SIGN = Repeat(Text("-"), 0, 1)
_NATURAL: Expression = choice((Text("0"), sequence(_NON_ZERO, Repeat(DIGIT, 0, _DIGITS))))

INTEGER: Expression = choice((Text("0"), sequence(_SIGN, _NON_ZERO, Repeat(DIGIT, 0, _DIGITS))))
NUMBER: Expression = sequence(
    _SIGN,
    _NATURAL,
    Repeat(sequence(Text("."), Repeat(DIGIT, 1, 16)), 0, 1),
    # Two digits: the largest stays a finite float.
    Repeat(sequence(Chars(((0x45, 0x45), (0x65, 0x65))), Repeat(Chars(((0x2B, 0x2B), (0x2D, 0x2D))), 0, 1),
                    Repeat(DIGIT, 1, 2)), 0, 1),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bound:
    """A number that is the least or the most; `is_open`: not itself."""

    value: Fraction
    is_open: bool = False

    @classmethod
    def of(cls, number: int | float, is_open: bool = False) -> Bound:
        """The bound as it was written: 0.1 is a tenth."""
        return cls(Fraction(Decimal(repr(number))) if isinstance(number, float) else Fraction(number), is_open)

    def __str__(self) -> str:
        return f"{float(self.value):g}"


def least_integer(low: Bound) -> int:
    """The smallest integer within a lower bound."""
    return floor(low.value) + 1 if low.is_open else ceil(low.value)


def most_integer(high: Bound) -> int:
    """The largest integer within an upper bound."""
    return ceil(high.value) - 1 if high.is_open else floor(high.value)


def integer_ends(low: Bound | None, high: Bound | None, n_digits: int = _DIGITS) -> tuple[int, int]:
    """First and last integer within bounds; where there is none, one of `n_digits`, or of one more than the other."""
    first = None if low is None else least_integer(low)
    last = None if high is None else most_integer(high)
    far = 10 ** max(n_digits, *(len(str(abs(end))) + 1 for end in (first, last) if end is not None), 0) - 1
    return -far if first is None else first, far if last is None else last


def integers(first: int, last: int) -> Expression | None:
    """The integers from the first to the last; None if there are none."""
    options: list[Expression] = []
    if first < 0:
        options.append(_signed(_naturals(max(1, -last), -first)))
    if last >= 0:
        options.append(_naturals(max(0, first), last))
    return choice(options) if first <= last and options else None


def decimals(low: Bound | None, high: Bound | None) -> Expression | None:
    """Numbers within bounds, without an exponent; None if there are none."""
    ends = [abs(floor(bound.value)) for bound in (low, high) if bound is not None]
    n_decimals = max(0, min(_DECIMALS, _DIGITS - max((len(str(end)) for end in ends), default=0)))
    far = Fraction(integer_ends(low, high)[1] if high is None else -integer_ends(low, high)[0])
    low = low or Bound(-far)
    high = high or Bound(far)
    zero, below_zero = Bound(Fraction(0)), Bound(Fraction(0), is_open=True)
    options: list[Expression] = []
    if low.value < 0:
        mirrored = Bound(-low.value, low.is_open)
        nearest = Bound(-high.value, high.is_open) if high.value < 0 else below_zero
        options += [_signed(option) for option in _positive(nearest, mirrored, n_decimals)]
    if high.value >= 0:
        options += _positive(low if low.value >= 0 else zero, high, n_decimals)
    return choice(options) if options else None


def _positive(low: Bound, high: Bound, n_decimals: int) -> list[Expression]:
    """Numbers that are not negative, by how many decimals they have."""
    options: list[Expression] = []
    whole = None
    for n in range(n_decimals + 1):
        scale = 10**n
        first = least_integer(Bound(low.value * scale, low.is_open))
        last = most_integer(Bound(high.value * scale, high.is_open))
        if first > last:
            continue
        options += _with_decimals(first, last, n)
        if n == 0 and last - first > 1:
            whole = (first + 1, last - 2) if last - 2 > first else None
    if whole is not None and n_decimals:
        # Far from the bounds: any decimals.
        options.append(sequence(_naturals(*whole), Text("."), Repeat(DIGIT, 1, n_decimals)))
    return options


def _with_decimals(first: int, last: int, n: int) -> list[Expression]:
    """From `first` to `last`, both in units of the n-th decimal, with exactly n of them."""
    if n == 0:
        return [_naturals(first, last)]
    scale = 10**n
    (low, low_rest), (high, high_rest) = divmod(first, scale), divmod(last, scale)
    if low == high:
        return [_pointed(_naturals(low, low), low_rest, high_rest, n)]
    options = [
        _pointed(_naturals(low, low), low_rest, scale - 1, n),
        _pointed(_naturals(high, high), 0, high_rest, n),
    ]
    if low + 1 < high:
        # Those next to the bounds; the others have any decimals.
        options += [_pointed(_naturals(i, i), 0, scale - 1, n) for i in sorted({low + 1, high - 1})]
    return options


def _pointed(whole: Expression, first: int, last: int, n: int) -> Expression:
    return sequence(whole, Text("."), _between(str(first).zfill(n), str(last).zfill(n)))


def _signed(number: Expression) -> Expression:
    return sequence(Text("-"), number)


def _naturals(first: int, last: int) -> Expression:
    """From 0 <= first to last, without zeros in front."""
    options: list[Expression] = []
    whole: list[int] = []
    for n in range(len(str(first)), len(str(last)) + 1):
        shortest = 10 ** (n - 1) if n > 1 else 0
        low, high = max(first, shortest), min(last, 10**n - 1)
        if (low, high) == (shortest, 10**n - 1) and n > 1:
            whole.append(n)
        else:
            options.append(_between(str(low), str(high)))
    if whole:
        options.append(sequence(_NON_ZERO, Repeat(DIGIT, whole[0] - 1, whole[-1] - 1)))
    return choice(options)


def _between(low: str, high: str) -> Expression:
    """Digits from `low` to `high`, both of the same length."""
    n_rest = len(low) - 1
    if low == high:
        return Text(low)
    if low[0] == high[0]:
        return sequence(Text(low[0]), _between(low[1:], high[1:]))
    options: list[Expression] = []
    first, last = int(low[0]), int(high[0])
    if low[1:].strip("0"):
        options.append(sequence(Text(low[0]), _between(low[1:], "9" * n_rest)))
        first += 1
    if high[1:].strip("9"):
        options.append(sequence(Text(high[0]), _between("0" * n_rest, high[1:])))
        last -= 1
    if first <= last:
        digit = Chars(((0x30 + first, 0x30 + last),))
        options.append(sequence(digit, Repeat(DIGIT, n_rest, n_rest) if n_rest else EMPTY))
    return choice(options)


__all__ = ["INTEGER", "MAX_BOUND", "NUMBER", "Bound", "decimals", "integer_ends", "integers"]
