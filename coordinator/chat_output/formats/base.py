# SPDX-License-Identifier: MIT
"""What a format is, and what most have in common: thoughts between tags, then text, then calls behind a tag.

A format is the grammar of what may be written and the reading of what was. Both are given the same wish, so what is
read is what the grammar let through. Pure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from coordinator.chat_output.gbnf import BLANK, Rules, quoted
from coordinator.chat_output.reader import Reader, Steps
from coordinator.chat_output.tools import Tool, Wish


@dataclass(frozen=True, slots=True)
class Reading:
    """How one answer is to be read; plain values, for it is kept with the answer.

    Attributes:
        format: Name of the format.
        thought_tags: What thoughts lie between; None: the format has none of these.
        begun: What the prompt ends with if that begins thoughts: the first tag, with blanks.
        prefix: What the client has begun the answer with, which is part of it.
        is_echoed: Streams begin with that.
        reasoning_apart: Thoughts are told apart; else they are part of the text, as they stand.
        reads_calls: There may be calls in it.
        is_json: Its text is valid by a schema, so it does not have calls in the middle.
        raw: For formats that write strings without quotes: by tool, the parameters that are strings, and whether "null"
            is none.
    """

    format: str
    thought_tags: tuple[str, str] | None = None
    begun: str = ""
    prefix: str = ""
    is_echoed: bool = True
    reasoning_apart: bool = True
    reads_calls: bool = False
    is_json: bool = False
    raw: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Reading:
        """What `as_record` gave, as JSON brought it back."""
        tags = record["thought_tags"]
        return cls(**{**record, "thought_tags": None if tags is None else tuple(tags)})


@dataclass(frozen=True, slots=True)
class Setting:
    """What a grammar is written for.

    Attributes:
        reading: How the answer will be read.
    """

    wish: Wish
    reading: Reading


class ChatFormat(ABC):
    """One format. There is one object of each class, without state."""

    name: ClassVar[str]
    special: ClassVar[tuple[str, ...]] = ()
    """Special tokens that are part of what is read; others are no text."""
    id_prefix: ClassVar[str] = "call_"
    id_length: ClassVar[int] = 24
    """Characters of a call's id behind the prefix."""
    is_own: ClassVar[bool] = True
    """Whether the model's template tells of tools and calls itself."""
    example: ClassVar[str] = ""
    """How a call is written, of NAME with ARGUMENTS, where templates do not tell of tools; empty: all do."""
    has_thought_tags: ClassVar[bool] = True
    """Whether thoughts, if there are any, lie between the tags that the template names."""
    is_always_marked: ClassVar[bool] = False
    """Whether answers without thoughts and calls have marks, too."""

    @abstractmethod
    def is_of(self, template: str) -> bool:
        """Whether a model with this template writes so."""

    @abstractmethod
    def grammar(self, setting: Setting, rules: Rules) -> str:
        """What the whole answer may be, as the body of the grammar's first rule; the others go into `rules`.

        Raises:
            SchemaError: a schema that cannot be held.
        """

    @abstractmethod
    def read(self, reader: Reader, reading: Reading) -> Steps[None]:
        """Reads one answer, and tells what is in it.

        Raises:
            CutError: it ended early.
            MalformedError: it is not of this format after all.
        """

    def raw(self, tools: tuple[Tool, ...]) -> dict[str, dict[str, bool]]:
        """As in `Reading`."""
        del tools
        return {}

    def begun(self, tags: tuple[str, str], thoughts: str, content: str | None) -> str:
        """An answer's beginning, behind the prompt.

        Args:
            tags: What thoughts lie between, with the blanks that belong to them; empty: there are none.
            content: None: it breaks off in the thoughts.
        """
        opening, closing = tags
        if not opening:
            return content or ""
        return f"{opening}{thoughts}" if content is None else f"{opening}{thoughts}{closing}{content}"

    def adapted(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """A message of the conversation as the template wants it."""
        return message


class TaggedFormat(ChatFormat):
    """Thoughts between tags, if any; then text; then calls, behind an opening tag."""

    opener: ClassVar[str]
    also: ClassVar[tuple[str, ...]] = ()
    """What else begins calls in text: some models leave the opener out."""
    breakers: ClassVar[tuple[str, ...]] = ()
    """What begins calls in thoughts, and ends those: some models do not close them."""

    @abstractmethod
    def calls(self, setting: Setting, rules: Rules) -> dict[str, str]:
        """By opener and all else that begins calls, the rule for what follows, to the end of the answer."""

    @abstractmethod
    def read_call(self, reader: Reader, reading: Reading, word: str) -> Steps[None]:
        """Reads what follows the word that began a call; text may follow, or another opener."""

    def grammar(self, setting: Setting, rules: Rules) -> str:
        wish = setting.wish
        calls = self.calls(setting, rules) if wish.callables else {}
        call = f"{BLANK} {quoted(self.opener)} {calls.get(self.opener)}"
        if wish.must_call:
            then = call
        elif wish.schema is not None:
            then = f"{BLANK} {rules.schema('answer', wish.schema, '')}" + (f" | {call}" if calls else "")
        else:
            then = rules.until("text", {word: calls.get(word) for word in (self.opener, *self.also)})
        return after_thoughts(setting, rules, then, {word: calls.get(word) for word in self.breakers})

    def read(self, reader: Reader, reading: Reading) -> Steps[None]:
        word = yield from read_thoughts(reader, reading, self.breakers if reading.reads_calls else ())
        if word is None and reading.is_json and reading.reads_calls and (yield from reader.are_next(self.opener)):
            word = self.opener
        if word is None and not (reading.reads_calls and not reading.is_json):
            yield from reader.until((), reader.content)
            return
        words = (self.opener, *self.also)
        while word is not None or (word := (yield from reader.until(words, reader.content))) is not None:
            yield from self.read_call(reader, reading, word)
            word = None


def after_thoughts(setting: Setting, rules: Rules, then: str, breakers: Mapping[str, str | None] | None = None) -> str:
    """The grammar of thoughts, which may be left out where the prompt did not begin them, and of what follows.

    Args:
        breakers: what ends thoughts beside their tag, with what follows each; None: that must not come.
    """
    tags = setting.reading.thought_tags
    if tags is None:
        return then
    opening, closing = tags
    follows = rules.add("after", then)
    may_end = not setting.wish.must_call
    thoughts = rules.until("thoughts", {closing: follows, **(breakers or {})}, may_end=may_end)
    if setting.reading.begun:
        return thoughts
    return f"{follows} | {BLANK} {quoted(opening)} {thoughts}"


def read_thoughts(reader: Reader, reading: Reading, breakers: tuple[str, ...] = ()) -> Steps[str | None]:
    """Reads thoughts, if the answer begins with any; gives what ended them if it is not their tag."""
    if reading.thought_tags is None:
        return None
    opening, closing = reading.thought_tags
    apart, start = reading.reasoning_apart, reader.mark()
    is_opened = yield from reader.are_next(opening)
    if not (is_opened or reading.begun):
        reader.go_back(start)
        return None
    if not apart:
        reader.content(opening if is_opened else reading.begun)
    word = yield from reader.until((closing, *breakers), reader.reasoning if apart else reader.content)
    if word != closing:
        return word
    if apart:
        reader.begin_content()
    else:
        reader.content(closing)
    return None


@dataclass(frozen=True, slots=True)
class JsonCall:
    """A call that is one JSON object with a name and arguments, in this order.

    Attributes:
        before: A key with a string that stands before the name; what it holds is passed over, as with `behind`.
        behind: The same behind the arguments; that one may be left out.
        string: What those strings hold, as a grammar.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"
    before: str | None = None
    behind: str | None = None
    string: str = ""

    def grammar(self, tool: Tool, arguments: str) -> str:
        """A call of the tool.

        Args:
            arguments: the rule for them.
        """
        before = [] if self.before is None else [*self._pair(self.before), quoted(",")]
        name = [quoted(f'"{self.name_key}"'), quoted(":"), quoted(f'"{tool.name}"'), quoted(",")]
        parts = [quoted("{"), *before, *name, quoted(f'"{self.arguments_key}"'), quoted(":"), arguments]
        if self.behind is not None:
            parts.append("(" + f" {BLANK} ".join([quoted(","), *self._pair(self.behind)]) + ")?")
        return f" {BLANK} ".join([*parts, quoted("}")])

    def rule(self, setting: Setting, rules: Rules) -> str:
        """The rule for a call of any of the tools that may be called."""
        arguments = arguments_rules(setting, rules)
        options = [self.grammar(tool, arguments[tool.name]) for tool in setting.wish.callables]
        return rules.add("call", " | ".join(options))

    def read(self, reader: Reader) -> Steps[None]:
        """Reads one, and tells it."""
        yield from reader.expect("{")
        if self.before is not None and (yield from reader.are_next(f'"{self.before}"', ":")):
            yield from reader.string()
            yield from reader.expect(",")
        yield from reader.expect(f'"{self.name_key}"', ":")
        name = yield from reader.string()
        yield from reader.expect(",", f'"{self.arguments_key}"', ":")
        reader.begin_call(name)
        yield from reader.json_object(reader.arguments)
        if self.behind is not None and (yield from reader.are_next(",", f'"{self.behind}"', ":")):
            yield from reader.string()
        yield from reader.expect("}")

    def _pair(self, key: str) -> list[str]:
        string = f"{quoted(chr(34))} {self.string} {quoted(chr(34))}"
        return [quoted(f'"{key}"'), quoted(":"), string]


def arguments_rules(setting: Setting, rules: Rules) -> dict[str, str]:
    """By tool that may be called, the rule for its arguments."""
    return {
        tool.name: rules.schema(f"arguments-{number}", tool.parameters, tool.place)
        for number, tool in enumerate(setting.wish.callables)
    }
