# SPDX-License-Identifier: MIT
"""Each family's answers: known by the template, read whole or in any pieces, let through by llama.cpp under our
grammar, and no others.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from coordinator.chat_output import (
    Calls,
    Layout,
    Message,
    OutputParser,
    Reading,
    Tool,
    Wish,
    lay_out,
    message_of,
    parse,
)
from coordinator.errors import SchemaError
from native import GrammarError, Sampler, SamplingParams, Vocabulary
from tests.coordinator.caravan_command import DEMO_MODEL
from tests.coordinator.chat_output.answers import CLOCK, SAMPLES, TOOLS, WEATHER, Sample, deepseek, template

_ASK = [{"role": "user", "content": "What will the weather be?"}]
_SEED = "an answer"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    with Vocabulary.load(DEMO_MODEL) as vocabulary:
        yield vocabulary


def _laid_out(sample: Sample, wish: Wish) -> Layout:
    return lay_out(template(sample.marks, sample.opens), _ASK, wish)


def _is_admitted(vocabulary: Vocabulary, grammar: str, text: str) -> bool:
    """Whether llama.cpp lets a model write this, and end there."""
    tokens = vocabulary.tokenize(text, add_special=False, parse_special=False)
    assert b"".join(map(vocabulary.piece, tokens)).decode() == text
    assert vocabulary.eos is not None
    try:
        Sampler(vocabulary, SamplingParams(grammar=grammar), generated_tokens=[*tokens, vocabulary.eos]).close()
    except GrammarError:
        return False
    return True


def _plain(message: Message) -> tuple[str, str, tuple[tuple[str, str], ...]]:
    return message.content, message.reasoning, tuple((call.name, call.arguments) for call in message.calls)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.format)
def test_an_answer_is_read(sample: Sample) -> None:
    reading = _laid_out(sample, Wish(TOOLS)).reading
    assert reading is not None
    assert reading.format == sample.format
    assert _plain(parse(sample.text, reading, _SEED)) == (sample.content, sample.reasoning, sample.calls)
    assert Reading.from_record(json.loads(json.dumps(reading.as_record()))) == reading
    for call in parse(sample.text, reading, _SEED).calls:
        assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.format)
def test_in_whatever_pieces_it_comes_the_same_is_told(sample: Sample) -> None:
    reading = _laid_out(sample, Wish(TOOLS)).reading
    assert reading is not None
    chance = random.Random(sample.text)
    # Cut anywhere, too: what `max_tokens` leaves.
    for length in [len(sample.text)] * 20 + [chance.randrange(len(sample.text)) for _ in range(40)]:
        text = sample.text[:length]
        whole = parse(text, reading, _SEED)
        cuts = sorted(chance.choices(range(length + 1), k=chance.randrange(12)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, length], strict=True)]
        parser = OutputParser(reading, _SEED)
        told = [delta for piece in pieces for delta in parser.push(piece)]
        assert message_of([*told, *parser.finish()]) == whole, pieces
        assert not (sample.calls and "tool_call>" in whole.content)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.format)
def test_llama_cpp_lets_it_through_and_no_call_that_is_not_valid(sample: Sample, vocabulary: Vocabulary) -> None:
    grammar = _laid_out(sample, Wish(TOOLS)).grammar
    assert _is_admitted(vocabulary, grammar, sample.text)
    for name, _ in sample.calls:
        assert not _is_admitted(vocabulary, grammar, sample.text.replace(name, "other"))
        (others,) = {tool.name for tool in TOOLS} - {name}
        assert not _is_admitted(
            vocabulary, _laid_out(sample, Wish(TOOLS, callable=frozenset({others}))).grammar, sample.text
        )
    if "Oslo" in sample.text:
        assert not _is_admitted(vocabulary, grammar, sample.text.replace('"Oslo"', "7").replace("2\n", "two\n"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.format)
def test_a_call_is_made_where_one_must_be_and_none_where_none_may(sample: Sample, vocabulary: Vocabulary) -> None:
    must, may_not = Wish(TOOLS, Calls.REQUIRED), Wish(TOOLS, Calls.NONE)
    is_call_alone = bool(sample.calls) and not sample.content
    assert _is_admitted(vocabulary, _laid_out(sample, must).grammar, sample.text) == is_call_alone
    # Llama's calls are JSON as any other; they are read as text.
    is_text = not sample.calls or sample.format == "llama3"
    assert _is_admitted(vocabulary, _laid_out(sample, may_not).grammar, sample.text) == is_text


@pytest.mark.parametrize("sample", [each for each in SAMPLES if len(each.calls) > 1], ids=lambda sample: sample.format)
def test_a_second_call_comes_only_where_several_may(sample: Sample, vocabulary: Vocabulary) -> None:
    assert not _is_admitted(vocabulary, _laid_out(sample, Wish(TOOLS, parallel=False)).grammar, sample.text)


def test_thoughts_may_stay_in_the_text() -> None:
    sample = next(each for each in SAMPLES if each.reasoning and each.text.startswith("<think>"))
    reading = _laid_out(sample, Wish(TOOLS, reasoning_apart=False)).reading
    assert reading is not None
    message = parse(sample.text, reading, _SEED)
    assert message.reasoning == ""
    assert message.content == "<think>\nA <tool_call> may do.\n</think>\n\nI look."
    assert [call.name for call in message.calls] == ["weather"]


def test_thoughts_that_the_prompt_began_stay_whole_in_the_text() -> None:
    layout = lay_out(template("</think>", "<think>\n"), _ASK, Wish(reasoning_apart=False))
    assert layout.reading is not None
    assert parse("Hm.</think>\nYes.", layout.reading, _SEED).content == "<think>\nHm.</think>\nYes."


@pytest.mark.parametrize("opens", ["", "<think>\n"])
def test_a_schema_holds_the_answer_and_not_the_thoughts(opens: str, vocabulary: Vocabulary) -> None:
    schema = {"type": "object", "properties": {"tag": {"const": "<tool_call>"}}, "required": ["tag"]}
    layout = lay_out(template("<tool_call> </think>", opens), _ASK, Wish(TOOLS, schema=schema))
    assert layout.reading is not None
    answer = '{"tag": "<tool_call>"}'
    text = ("" if opens else "<think>") + f"Hm.</think>\n{answer}"
    assert _is_admitted(vocabulary, layout.grammar, text)
    assert not _is_admitted(vocabulary, layout.grammar, text + "!")
    assert _plain(parse(text, layout.reading, _SEED)) == (answer, "Hm.", ())


def test_a_call_that_is_cut_tells_what_there_is_of_it() -> None:
    reading = _laid_out(SAMPLES[0], Wish(TOOLS)).reading
    assert reading is not None
    text = SAMPLES[0].text
    assert _plain(parse(text[: text.index("Oslo") + 2], reading, _SEED)) == (
        "I look.",
        "",
        (("weather", '{"city": "Os'),),
    )
    assert _plain(parse(text[: text.index("weather") + 2], reading, _SEED)) == ("I look.", "", ())


def test_ids_are_such_as_templates_take_and_the_same_whenever_an_answer_is_told() -> None:
    samples = {sample.format: sample for sample in SAMPLES if len(sample.calls) > 1}
    for sample in samples.values():
        reading = _laid_out(sample, Wish(TOOLS)).reading
        assert reading is not None
        ids = [call.id for call in parse(sample.text, reading, _SEED).calls]
        assert len({*ids}) == 2
        assert ids == [call.id for call in parse(sample.text, reading, _SEED).calls]
        if sample.format.startswith("mistral"):
            assert all(len(each) == 9 and each.isalnum() for each in ids)


def test_what_is_written_without_quotes_is_told_as_its_schema_has_it(vocabulary: Vocabulary) -> None:
    properties = {
        "unit": {"enum": ["C", "F"]},
        "note": {"type": ["string", "null"]},
        "more": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "size": {"type": ["integer", "null"]},
    }
    tool = Tool("set", {"type": "object", "properties": properties, "required": ["unit"]})
    layout = lay_out(template("<tool_call> <function= <parameter="), _ASK, Wish((tool,)))
    assert layout.reading is not None
    written = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n"
        for key, value in {"unit": "C", "note": "null", "more": "null and void", "size": "null"}.items()
    )
    text = f"<tool_call>\n<function=set>\n{written}</function>\n</tool_call>"
    assert _is_admitted(vocabulary, layout.grammar, text)
    assert not _is_admitted(vocabulary, layout.grammar, text.replace("\nC", "\nK"))
    (call,) = parse(text, layout.reading, _SEED).calls
    assert json.loads(call.arguments) == {"unit": "C", "note": None, "more": "null and void", "size": None}


def test_a_message_to_a_tool_that_is_not_there_is_nothing() -> None:
    sample = next(each for each in SAMPLES if each.format == "gpt-oss" and not each.calls)
    reading = _laid_out(sample, Wish()).reading
    assert reading is not None
    text = "<|channel|>commentary to=python <|constrain|>code<|message|>print()<|end|><|start|>assistant"
    assert _plain(parse(text + sample.text, reading, _SEED)) == ("Rain.", "Hm.", ())


def test_a_schema_that_cannot_be_held_is_refused_by_its_tool_and_place() -> None:
    schema = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}}
    tools = (CLOCK, Tool("tags", schema, place="tools.1.function.parameters"))
    with pytest.raises(SchemaError, match=r"at tools.1.function.parameters#/properties/tags: `uniqueItems`"):
        lay_out(template("<tool_call>"), _ASK, Wish(tools))
    strict = Tool("day", {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}, strict=True)
    with pytest.raises(SchemaError, match="writes strings without quotes, where `format` cannot be kept"):
        lay_out(template("<tool_call> <function= <parameter="), _ASK, Wish((strict,)))


@pytest.mark.parametrize("marks", ["<tool_call>", "<tool_call> <function= <parameter="])
@pytest.mark.parametrize(
    "schema",
    [
        {"required": 5},
        {"required": [{}]},
        {"properties": 5},
        {"properties": {"a": {"type": [{}]}}},
        {"properties": {"a": {"type": "string", "enum": 5}}},
        {"properties": {"a": {"enum": []}}},
        {"properties": {"a": {"anyOf": [5, {}]}}},
        {"properties": {"a": 5}},
    ],
)
def test_a_schema_that_is_none_is_refused(marks: str, schema: dict[str, object]) -> None:
    tool = Tool("odd", {"type": "object", **schema}, place="tools.0.function.parameters")
    with pytest.raises(SchemaError, match=r"at tools.0.function.parameters#"):
        lay_out(template(marks), _ASK, Wish((tool,)))


def test_references_within_a_tools_schema_stay_within_it(vocabulary: Vocabulary) -> None:
    def tool(name: str, value: str) -> Tool:
        definitions = {"word": {"const": value}}
        return Tool(name, {"type": "object", "properties": {"word": {"$ref": "#/$defs/word"}}, "required": ["word"],
                           "$defs": definitions})  # fmt: skip

    tools = (tool("one", "a"), tool("two", "b"))
    for marks, text in (
        ("<tool_call>", '<tool_call>{"name": "two", "arguments": {"word": "b"}}</tool_call>'),
        (deepseek("[tool calls begin]"), deepseek('[tool calls begin][tool call begin]two[tool sep]{"word": "b"}'
                                                  "[tool call end][tool calls end]")),
        ("<tool_call> <function= <parameter=",
         '<tool_call><function=two><parameter=word>\n"b"\n</parameter></function></tool_call>'),
    ):  # fmt: skip
        grammar = lay_out(template(marks), _ASK, Wish(tools)).grammar
        assert _is_admitted(vocabulary, grammar, text)
        assert not _is_admitted(vocabulary, grammar, text.replace('"b"', '"a"'))


def test_a_model_that_leaves_out_its_marks_is_read_as_text() -> None:
    for marks in (">>>all >>>${recipient}", "<|start|> <|channel|>", "<|START_ACTION|> <|START_RESPONSE|>"):
        reading = lay_out(template(marks), _ASK, Wish()).reading
        assert reading is not None
        assert _plain(parse("Rain,\n3 mm.", reading, _SEED)) == ("Rain,\n3 mm.", "", ())


def test_a_plain_model_without_tools_is_read_as_text() -> None:
    assert lay_out(template(""), _ASK, Wish()) == Layout("[user]What will the weather be?[assistant]")
    assert WEATHER.as_told()["function"]["name"] == "weather"
