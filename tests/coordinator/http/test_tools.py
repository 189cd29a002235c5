# SPDX-License-Identifier: MIT
"""Tools and thoughts over two real workers: whatever nonsense the model writes, its calls are valid, and told the same
whole and streamed. The demo model's template knows no tools; a tiny random model has one that knows them, and thoughts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import Choice

from tests.coordinator.caravan_command import ALONE, served_url, started
from tests.coordinator.http.conftest import MODEL
from tests.models import write_model

_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "hours": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
_TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Weather", "parameters": _PARAMETERS}},
    {"type": "function", "function": {"name": "clock"}},
]
_ASK = [{"role": "user", "content": "What will the weather be?"}]

_TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for m in messages %}<s>{{ m.role }}: "
    "{{ m.content.split('</think>')[-1] }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}"
    "</tool_call>{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<s>assistant: "
    "{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A client of a line with the tiny model, whose template knows tools and thoughts."""
    model = write_model(tmp_path_factory.mktemp("m") / "t.gguf", "llama", with_text=True, chat_template=_TEMPLATE)
    options = ("--local", "2", "--context", "2048", "--alias", MODEL, "--listen", "127.0.0.1:0")
    with (
        started("serve", model, *options, *ALONE) as process,
        openai.OpenAI(base_url=f"{served_url(process)}/v1", api_key="none", max_retries=0, timeout=60) as client,
    ):
        yield client


def _chat(client: openai.OpenAI, **fields: object) -> ChatCompletion:
    return cast(ChatCompletion, _ask_chat(client, fields))


def _ask_chat(client: openai.OpenAI, fields: dict[str, object]) -> object:
    create: Any = client.chat.completions.create
    return create(**({"model": MODEL, "messages": _ASK, "tools": _TOOLS, "seed": 3, "max_tokens": 900} | fields))


def _streamed(client: openai.OpenAI, **fields: object) -> dict[str, Any]:
    """The message that the deltas make, with its finish reason."""
    told: dict[str, Any] = {"content": "", "reasoning": "", "calls": []}
    for chunk in cast(Iterable[ChatCompletionChunk], _ask_chat(client, fields | {"stream": True})):
        (choice,) = chunk.choices
        told["content"] += choice.delta.content or ""
        told["reasoning"] += getattr(choice.delta, "reasoning_content", None) or ""
        for call in choice.delta.tool_calls or ():
            assert call.function is not None
            if call.id:
                assert call.index == len(told["calls"])
                told["calls"].append({"id": call.id, "name": call.function.name, "arguments": ""})
            told["calls"][call.index]["arguments"] += call.function.arguments
        told["finish_reason"] = choice.finish_reason
    return told


def _check_calls(choice: Choice) -> None:
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function"
        schema = _PARAMETERS if call.function.name == "weather" else {"type": "object", "maxProperties": 0}
        jsonschema.validate(json.loads(call.function.arguments), schema)


@pytest.mark.parametrize(
    ("written", "reasoning", "content"),
    [("<think>\nHm, two.\n</think>\n\nYes, 2.", "Hm, two.", "Yes, 2."), ("Yes, 2.", None, "Yes, 2.")],
)
def test_thoughts_are_told_apart(thinker: openai.OpenAI, written: str, reasoning: str | None, content: str) -> None:
    # A grammar has the random model write what a model that thinks would.
    body = {"grammar": f"root ::= {json.dumps(written)}"}
    (choice,) = _chat(thinker, tools=[], extra_body=body, logprobs=True).choices
    assert getattr(choice.message, "reasoning_content", None) == reasoning
    assert choice.message.content == content
    entries = (choice.logprobs and choice.logprobs.content) or []
    text = b"".join(bytes(entry.bytes or []) for entry in entries).decode()
    assert text.strip() == written
    streamed = _streamed(thinker, tools=[], extra_body=body)
    assert (streamed["reasoning"] or None, streamed["content"]) == (reasoning, content)
    raw = _chat(thinker, tools=[], extra_body={**body, "reasoning_format": "none"}).choices[0].message
    assert raw.content == written
    assert getattr(raw, "reasoning_content", None) is None


def test_thoughts_are_an_item_of_a_response(thinker: openai.OpenAI) -> None:
    create: Any = thinker.responses.create
    body = {"grammar": 'root ::= "<think>Hm.</think>Yes."'}
    thought, said = create(model=MODEL, input="Is it?", extra_body=body).output
    assert (thought.type, thought.content[0].text) == ("reasoning", "Hm.")
    assert (said.type, said.content[0].text) == ("message", "Yes.")
    events = list(create(model=MODEL, input="Is it?", extra_body=body, stream=True))
    deltas = dict.fromkeys(("response.reasoning_text.delta", "response.output_text.delta"), "")
    for event in events:
        if event.type in deltas:
            deltas[event.type] += event.delta
    assert list(deltas.values()) == ["Hm.", "Yes."]
    assert events[-1].response.usage.output_tokens_details.reasoning_tokens > 0
    talk = [thought.model_dump(), said.model_dump(), {"role": "user", "content": "Sure?"}]
    assert create(model=MODEL, input=talk, extra_body=body).output_text == "Yes."


@pytest.mark.parametrize("knows_tools", [False, True])
def test_a_call_that_is_required_is_made_and_valid_and_streamed_the_same(
    client: openai.OpenAI, thinker: openai.OpenAI, *, knows_tools: bool
) -> None:
    for choice, temperature in (("required", 0.8), ({"type": "function", "function": {"name": "weather"}}, 2.0)):
        fields: dict[str, object] = {"tool_choice": choice, "temperature": temperature, "parallel_tool_calls": False}
        # Thoughts of a random model have no end.
        fields["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
        asked = thinker if knows_tools else client
        (answer,) = _chat(asked, **fields).choices
        _check_calls(answer)
        streamed = _streamed(asked, **fields)
        calls = [call.function for call in answer.message.tool_calls or () if call.type == "function"]
        assert [(call["name"], call["arguments"]) for call in streamed["calls"]] == [
            (call.name, call.arguments) for call in calls
        ]
        assert (streamed["content"], streamed["finish_reason"]) == ("", "tool_calls")
        assert choice == "required" or calls[0].name == "weather"


def test_what_a_call_gave_goes_on_in_the_conversation(client: openai.OpenAI) -> None:
    (choice,) = _chat(client, tool_choice="required", parallel_tool_calls=False).choices
    messages = [*_ASK, choice.message.model_dump(exclude_none=True)]
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": "Rain."} for call in choice.message.tool_calls or ()
    ]
    answer = _chat(client, messages=messages, max_tokens=5, tool_choice="none")
    assert answer.choices[0].message.content
    shorter = _chat(client, max_tokens=1, tool_choice="none")
    assert answer.usage is not None
    assert shorter.usage is not None
    assert answer.usage.prompt_tokens > shorter.usage.prompt_tokens


def test_without_a_call_an_answer_is_what_it_is_without_tools(client: openai.OpenAI) -> None:
    (choice,) = _chat(client, tool_choice="none", max_tokens=30, temperature=0).choices
    plain = _chat(client, tools=[], max_tokens=30, temperature=0).choices[0]
    assert choice.message.content == plain.message.content
    # It is told of them, and writes text: a grammar holds calls, and leaves text free.
    (choice,) = _chat(client, max_tokens=30, temperature=0).choices
    assert choice.message.tool_calls is None
    assert choice.message.content
    assert _streamed(client, max_tokens=30, temperature=0)["content"] == choice.message.content


def test_a_schema_that_cannot_be_held_is_refused_with_its_tool(client: openai.OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "not": {}}}}
    with pytest.raises(openai.BadRequestError, match=r"at tools.1.function.parameters#: ") as caught:
        _chat(client, tools=[_TOOLS[1], tool])
    assert caught.value.code == "invalid_json_schema"
