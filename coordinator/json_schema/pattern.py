# SPDX-License-Identifier: MIT
"""Regular expressions as JSON Schema has them (ECMA-262, found anywhere in the text) as expressions. Pure.

Where dialects differ in what a class holds (`\\d`, `\\w`, `\\s` and their opposites, beyond ASCII), the narrowest is
meant, so that a text is valid whoever checks it. What no grammar can keep (looking around, back references, word
boundaries) is refused.
"""

from __future__ import annotations

from coordinator.json_schema.expression import (
    ANY_CHARACTER,
    LAST_CHARACTER,
    Chars,
    Expression,
    Ranges,
    Repeat,
    all_but,
    choice,
    ranges_of,
    sequence,
)

MAX_PATTERN_CHARACTERS = 4096
_MAX_DEPTH = 48

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_BEYOND_ASCII: tuple[int, int] = (0x80, LAST_CHARACTER)
# The same as some dialect has them at most.
_WIDE_DIGITS = ranges_of([*_DIGITS, (0x600, LAST_CHARACTER)])
_WIDE_WORD = ranges_of([*_WORD, _BEYOND_ASCII])
_WIDE_SPACE = ranges_of(
    [*_SPACE, (0x1C, 0x1F), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200B),
     (0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]
)  # fmt: skip
_CLASSES = {
    "d": (_DIGITS, _WIDE_DIGITS),
    "w": (_WORD, _WIDE_WORD),
    "s": (_SPACE, _WIDE_SPACE),
    "D": (all_but(_WIDE_DIGITS), all_but(_DIGITS)),
    "W": (all_but(_WIDE_WORD), all_but(_WORD)),
    "S": (all_but(_WIDE_SPACE), all_but(_SPACE)),
}
"""Each at its narrowest, and at its widest, which counts within `[^...]`."""

_DOT = Chars(all_but(((0x0A, 0x0A), (0x0D, 0x0D), (0x85, 0x85), (0x2028, 0x2029))))
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_HEXADECIMAL = {"x": 2, "u": 4}
_ANYTHING = Repeat(ANY_CHARACTER, 0, None)


class PatternError(ValueError):
    """The pattern is none, or asks for what no grammar can keep; the message says what."""


def expression_of(pattern: str) -> Expression:
    """The texts in which the pattern is found.

    Raises:
        PatternError: see there.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise PatternError(f"it is longer than {MAX_PATTERN_CHARACTERS} characters")
    return _Parser(pattern).whole()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        options = [self._anchored()]
        while self._take("|"):
            options.append(self._anchored())
        if self._at < len(self._pattern):
            raise PatternError(f"nothing opens what `{self._pattern[self._at]}` closes")
        return choice(options)

    def _anchored(self) -> Expression:
        """One alternative of the whole pattern: only there `^` and `$` can be kept."""
        from_start = self._take("^")
        while self._take("^"):
            pass
        body = self._items()
        to_end = self._take("$")
        while self._take("$"):
            pass
        if self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            raise PatternError("`^` and `$` can be kept at the pattern's ends only")
        return sequence(*([] if from_start else [_ANYTHING]), body, *([] if to_end else [_ANYTHING]))

    def _group(self) -> Expression:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise PatternError(f"its groups lie more than {_MAX_DEPTH} deep")
        options = [self._items()]
        while self._take("|"):
            options.append(self._items())
        if not self._take(")"):
            raise PatternError(
                "`^` and `$` can be kept at the pattern's ends only" if self._ahead() else "a group is open"
            )
        self._depth -= 1
        return choice(options)

    def _items(self) -> Expression:
        items: list[Expression] = []
        while self._ahead() not in ("", "|", ")", "^", "$"):
            items.append(self._repeated(self._item()))
        return sequence(*items)

    def _item(self) -> Expression:
        char = self._next()
        if char == "(":
            self._open_group()
            return self._group()
        if char == "[":
            return Chars(self._class())
        if char == ".":
            return _DOT
        if char == "\\":
            return Chars(self._escape(wide=False, in_class=False))
        if char in "*+?":
            raise PatternError(f"there is nothing that `{char}` repeats")
        return _one(ord(char))

    def _open_group(self) -> None:
        if not self._take("?"):
            return
        if self._take(":"):
            return
        if self._take("<") and self._ahead() not in ("=", "!"):
            name = self._until(">")
            if name.isidentifier():
                return
        raise PatternError("groups that begin with `(?` (looking around, flags) cannot be kept by a grammar")

    def _repeated(self, item: Expression) -> Expression:
        least, most = 1, 1  # type: int, int | None
        if self._take("*"):
            least, most = 0, None
        elif self._take("+"):
            least, most = 1, None
        elif self._take("?"):
            least, most = 0, 1
        elif self._ahead() == "{":
            counts = self._counts()
            if counts is None:
                return item
            least, most = counts
        else:
            return item
        # Lazy or not, the same texts match.
        self._take("?")
        if self._ahead() and self._ahead() in "*+?":
            raise PatternError(f"there is nothing that `{self._ahead()}` repeats")
        return Repeat(item, least, most)

    def _counts(self) -> tuple[int, int | None] | None:
        """`{2}`, `{2,}` or `{2,5}`; None where the brace stands for itself."""
        end = self._pattern.find("}", self._at)
        parts = self._pattern[self._at + 1 : end].split(",") if end > 0 else []
        digits = [part for part in parts if part.isascii() and part.isdigit()]
        if not parts or len(parts) > 2 or not parts[0] or len(digits) != len([part for part in parts if part]):
            raise PatternError("`{` stands for no count: write `\\{`")
        if any(len(part) > 9 for part in digits):
            raise PatternError("it repeats more often than anything can")
        self._at = end + 1
        least = int(parts[0])
        most = least if len(parts) == 1 else int(parts[1]) if parts[1] else None
        if most is not None and most < least:
            raise PatternError(f"it repeats at least {least} and at most {most} times")
        return least, most

    def _class(self) -> Ranges:
        negated = self._take("^")
        pairs: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._class_item(wide=negated)
            if self._ahead() == "-" and self._ahead(1) not in ("]", ""):
                self._at += 1
                last = self._class_item(wide=negated)
                if not _is_one(first) or not _is_one(last) or first[0][0] > last[0][0]:
                    raise PatternError("a range in `[...]` goes from one character to a later one")
                pairs.append((first[0][0], last[0][0]))
            else:
                pairs.extend(first)
        ranges = ranges_of(pairs)
        return all_but(ranges) if negated else ranges

    def _class_item(self, *, wide: bool) -> Ranges:
        char = self._next()
        if char == "\\":
            return self._escape(wide=wide, in_class=True)
        return ((ord(char), ord(char)),)

    def _escape(self, *, wide: bool, in_class: bool) -> Ranges:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char][wide]
        if in_class and char == "b":
            return ((0x08, 0x08),)
        if char in _CONTROLS and not (char == "0" and self._ahead().isdigit()):
            return ((_CONTROLS[char], _CONTROLS[char]),)
        if char in _HEXADECIMAL:
            code = self._code(_HEXADECIMAL[char])
            return ((code, code),)
        if char == "c" and self._ahead().isascii() and self._ahead().isalpha():
            code = ord(self._next()) % 32
            return ((code, code),)
        if char.isascii() and char.isalnum():
            raise PatternError(f"`\\{char}` cannot be kept by a grammar")
        return ((ord(char), ord(char)),)

    def _code(self, n_digits: int) -> int:
        if n_digits == 4 and self._take("{"):
            digits = self._until("}")
        else:
            digits = self._pattern[self._at : self._at + n_digits]
            self._at += n_digits
            if len(digits) < n_digits:
                digits = ""
        try:
            code = int(digits, 16)
        except ValueError:
            raise PatternError("an escape with `\\x` or `\\u` lacks its digits") from None
        if code > LAST_CHARACTER or 0xD800 <= code <= 0xDFFF:
            raise PatternError(f"there is no character U+{code:04X}")
        return code

    def _until(self, closing: str) -> str:
        end = self._pattern.find(closing, self._at)
        if end < 0:
            raise PatternError(f"a `{closing}` is missing")
        text, self._at = self._pattern[self._at : end], end + 1
        return text

    def _ahead(self, offset: int = 0) -> str:
        return self._pattern[self._at + offset : self._at + offset + 1]

    def _next(self) -> str:
        char = self._ahead()
        if not char:
            raise PatternError("it ends too early")
        self._at += 1
        return char

    def _take(self, char: str) -> bool:
        if self._ahead() != char:
            return False
        self._at += 1
        return True


def _one(code: int) -> Chars:
    return Chars(((code, code),))


def _is_one(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
