"""What chat templates may do, as transformers renders them, and what they may not."""

import resource
import time

import pytest

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.chat import Message, check_compiles, render

ASKED = [Message("system", "Be brief."), Message("user", "你好 <x>"), Message("assistant", "Hi"), Message("user", "?")]

HONEST = {
    "oobabooga/textgen#6985: generation tags": (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "mitsuhiko/minijinja#815: generation tags with white space control": (
        "{% for m in messages -%}\n  {%- if m.role == 'assistant' -%}\n    {%- generation -%}\n{{ m.content }}x"
        "{%- endgeneration -%}\n  {%- else %}{{ m.content }}{% endif -%}\n{% endfor %}"
    ),
    "axolotl-ai-cloud/axolotl#2762: a macro and a call inside generation": (
        "{% macro turn(m) %}[{{ m.role }}]{{ caller() }}{% endmacro %}{% for m in messages %}{% generation %}"
        "{% call turn(m) %}{{ m.content }}{% endcall %}{% endgeneration %}{% endfor %}"
    ),
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index0 == 2 %}{% break %}{% endif %}{% endfor %}",
    "tojson with arguments": "{{ messages | tojson(indent=2, ensure_ascii=True, sort_keys=True) }}"
    "{{ messages[0] | tojson(separators=(',', ':')) }}",
    "namespaces, slices, defaults": "{% set ns = namespace(found=false) %}{% for m in messages[1:] %}"
    "{% set ns.found = ns.found or m.role == 'assistant' %}{% endfor %}{{ ns.found }}{{ nothing | default('d') }}"
    "{{ messages[::-1][0].content }}{{ eos_token }}",
    "text methods": "{{ messages[1].content.split(' ')[0].strip().replace('你', 'x').upper() }}"
    "{{ ' '.join(['a', 'b']) }}{{ '%s-%s' | format('a', 'b') }}{{ '{} {:>4}'.format(1, 2) }}{{ 'a' ~ 1 ~ none }}",
    "filters": "{{ messages | map(attribute='role') | list | join(',') }}{{ messages | selectattr('role', 'equalto', "
    "'user') | list | length }}{{ ('a' * 3) | indent(2) }}{{ messages | rejectattr('content') | list }}",
    "tool calls": "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages if m.role != 'system' %}"
    "{{ loop.index }}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "arithmetic": "{{ (messages | length + 2) * 3 % 5 }}{{ 2 ** 10 }}{{ 7 // 2 }}{{ 'x' * 3 + 'y' }}{{ [1] + [2] }}"
    "{{ (1, 2) }}{{ {'a': 1} }}{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}",
}


@pytest.mark.parametrize("template", HONEST.values(), ids=HONEST)
def test_what_transformers_renders_is_rendered_alike(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = [{"role": message.role, "content": message.content} for message in ASKED]
    expected, _ = render_jinja_template([turns], chat_template=template, add_generation_prompt=True, eos_token="</s>")
    assert render(template, ASKED, {"eos_token": "</s>"}) == expected[0]


def test_the_date_is_todays() -> None:
    assert time.strftime("%Y") in render("{{ strftime_now('%Y-%m-%d') }}", ASKED, {})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }}", "unexpected end"),
        ("a\n{% endgeneration %}", "unknown tag 'endgeneration'"),
        ("{% generation %}{{ 1 }}", "unexpected end"),
        ("{{ messages | no_such_filter }}", "no filter named"),
        ("{% trans %}x{% endtrans %}", "unknown tag 'trans'"),
        ("{{ a b }}", "expected token"),
        ("{{ " + "(" * 5000 + " }}", "recursion"),
        ("{% for a in [1] %}" * 40 + "{% endfor %}" * 40, "nested blocks"),
        ("x" * 200_000, "far too long"),
    ],
)
def test_a_template_that_does_not_compile_is_told_with_its_place(template: str, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_compiles(template, "tokenizer_config.json, chat_template")
    assert said in caught.value.what.lower() + caught.value.what
    assert str(caught.value.where).startswith("tokenizer_config.json, chat_template")


def test_the_line_is_told() -> None:
    with pytest.raises(CheckpointError, match="chat_template, line 3"):
        check_compiles("a\nb\n{% nothing %}\n")


LOOP = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
HOSTILE = {
    "product": "{{ 'a' * 10**10 }}",
    "list product": "{{ ([1] * 10**9) | length }}",
    "power": "{{ 10 ** (10**9) }}",
    "squares": LOOP.replace("START", "3").replace("STEP", "ns.x * ns.x"),
    "doubling by ~": LOOP.replace("START", "'x'").replace("STEP", "ns.x ~ ns.x"),
    "doubling by +": LOOP.replace("START", "'x'").replace("STEP", "ns.x + ns.x"),
    "doubling by lists": LOOP.replace("START", "[1]").replace("STEP", "[ns.x, ns.x]"),
    "doubling by tuples": LOOP.replace("START", "(1,)").replace("STEP", "(ns.x, ns.x)"),
    "doubling by dicts": LOOP.replace("START", "[1]").replace("STEP", "{'a': ns.x, 'b': ns.x}"),
    "doubling by dict()": LOOP.replace("START", "[1]").replace("STEP", "dict(a=ns.x, b=ns.x)"),
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "much text in a loop": "{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}",
    "much output in a loop": "{% set s = 'x' * 4000000 %}{% for i in range(99999) %}{{ s }}{% endfor %}",
    "a set block": "{% set s %}{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}{% endset %}{{ s }}",
    "recursion": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "width of a method": "{{ 'x'.ljust(10**10) }}",
    "width of a filter": "{{ 'x' | center(10**10) }}",
    "width of format": "{{ '{:9999999999}'.format(1) }}",
    "width as an argument of format": "{{ '{:{w}}'.format(1, w=10**10) }}",
    "width of %": "{{ '%9999999999d' % 1 }}",
    "width of the filter format": "{{ ['%9999999999d'] | map('format', 1) | list }}",
    "width of a date": "{{ strftime_now('%999999999Y') }}",
    "replace": "{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}",
    "the filter replace": "{{ ('x' * 1000000) | replace('', 'y' * 1000000) }}",
    "join": "{{ ('y' * 1000000).join('x' * 100000) }}",
    "the filter join": "{{ range(99999) | join('y' * 1000000) }}",
    "translate": "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}",
    "expandtabs": "{{ ('\t' * 1000000).expandtabs(90000) }}",
    "the filter indent": "{{ ('\n' * 1000000) | indent(90000) }}",
    "JSON's indent": "{{ [[[1]]] | tojson(indent=99999999) }}",
    "sort": "{{ ('xy' * 1000000) | sort | length }}",
    "lorem ipsum": "{{ lipsum(10**6) }}",
    "internals": "{{ ''.__class__.__mro__ }}",
}


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_work_and_memory_are_bounded(template: str) -> None:
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="chat template"):
        render(template, ASKED, {})
    assert time.process_time() - started < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_long_honest_conversation_is_rendered() -> None:
    turns = [Message(("user", "assistant")[i % 2], "很长的一句话。\n" * 400) for i in range(601)]
    template = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content.strip() | replace('x', 'y') }}{% endfor %}"
    assert len(render(template, turns, {})) > 601 * 3000


def test_one_rendering_does_not_use_up_the_next() -> None:
    template = "{% for i in range(99999) %}{% endfor %}{{ messages[0].content }}"
    assert [render(template, ASKED, {}) for _ in range(8)] == ["Be brief."] * 8
