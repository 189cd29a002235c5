# SPDX-License-Identifier: MIT
"""The chat template of a model: what templates are written for, and nothing that a template could do to us."""

from pathlib import Path

import pytest

from native import ChatTemplate, ChatTemplateError, Vocabulary

_MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who are you? <b>&"},
]


def _render(source: str) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(_MESSAGES, enable_thinking="yes")


def test_the_demo_models_template_opens_the_assistants_turn(demo: Path) -> None:
    with Vocabulary.load(demo) as vocabulary:
        template = vocabulary.chat_template
        assert template is not None
        prompt = template.render(_MESSAGES)
        without = template.render(_MESSAGES, add_generation_prompt=False)
        tokens = vocabulary.tokenize(prompt, add_special=False, parse_special=True)
        assert tokens[0] == vocabulary.bos
        assert vocabulary.tokenize(prompt, add_special=False, parse_special=False) != tokens
    assert prompt.startswith(without)
    assert len(prompt) > len(without)
    assert prompt.index("Be brief.") < prompt.index("Who are you? <b>&")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0]['role'] }}{{ messages[1].content }}{{ eos_token }}",
         "<s>systemWho are you? <b>&</s>"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{% for m in messages %}{{ m.role }}{% break %}{% endfor %}", "system"),
        ("{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% if true %}\n    x\n{% endif %}", "    x\n"),
        ("{{ messages[1] | tojson }}", '{"role": "user", "content": "Who are you? <b>&"}'),
        ("{{ {'a': 'é'} | tojson(indent=2) }}", '{\n  "a": "é"\n}'),
        ("{{ messages | map(attribute='role') | tojson }}", '["system", "user"]'),
        ("{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %};{% endfor %}", "system;user;"),
        ("{{ strftime_now('%Y')[:2] }}", "20"),
        ("{{ tools is defined }}{{ enable_thinking }}", "Falseyes"),
        ("{{ messages | map(attribute='role') | join(',') }}", "system,user"),
        ("{{ messages[0].missing is none }}{{ messages[0].missing is undefined }}", "FalseTrue"),
    ],
)  # fmt: skip
def test_what_templates_are_written_for_is_there(source: str, expected: str) -> None:
    assert _render(source) == expected


def test_a_template_may_refuse_the_messages() -> None:
    with pytest.raises(ChatTemplateError, match="refuses these messages: roles must alternate"):
        _render("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ strftime_now.__globals__['json'] }}",
        "{{ messages.append({'role': 'evil'}) }}",
        "{{ messages[0].update({'role': 'evil'}) }}",
        "{{ messages[0].clear() }}",
        "{% set x = messages[0].pop('role') %}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '%s' % cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{% include '/etc/hostname' %}",
        "{% import '/etc/hostname' as x %}",
        "{{ 1 / 0 }}",
        "{{ range(10000000000) | list }}",
        "{{ none.x.y }}",
        "{{ no_such_function() }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_ends_in_one_error(source: str) -> None:
    before = [dict(message) for message in _MESSAGES]
    with pytest.raises(ChatTemplateError):
        _render(source)
    assert before == _MESSAGES


@pytest.mark.parametrize("source", ["{{ ''.__class__ }}", "{{ raise_exception.__globals__ }}", "{{ x.__code__ }}"])
def test_what_a_template_may_not_see_is_nothing_to_it(source: str) -> None:
    assert _render("{% set x = raise_exception %}" + source) == ""


@pytest.mark.parametrize("source", ["{% for %}", "{{ unclosed", "{% endif %}", "{% unknown_tag %}"])
def test_a_template_that_does_not_parse_is_refused_at_once(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="does not parse"):
        ChatTemplate(source, bos="", eos="")
