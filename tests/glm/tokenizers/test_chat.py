"""Chat prompts against what each publisher's code builds, and templates that misbehave."""

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.charsmap import FENCE, GAP
from glmquant.glm.tokenizers.chat import TEMPLATES, Message, TemplateEncoder, render
from tests.glm.tokenizers.hard_strings import HARD_STRINGS
from tests.support.golden import directory, tokenizer

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters=["\0", FENCE, GAP]), max_size=20),
    st.sampled_from(HARD_STRINGS),
)
ROLE_IDS = {"system": 2048, "user": 2049, "assistant": 2050, "observation": 2051}


def pieces(name: str) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(directory(name) / "tokenizer.model"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=2), TEXT)
def test_chatglm2_rounds(history: list[tuple[str, str]], query: str) -> None:
    prompt = "".join(f"[Round {i + 1}]\n\n问：{q}\n\n答：{a}\n\n" for i, (q, a) in enumerate(history))
    prompt += f"[Round {len(history) + 1}]\n\n问：{query}\n\n答："
    turns = [Message(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
    ids = tokenizer("chatglm2-tiny").apply_chat_template([*turns, Message("user", query)])
    assert ids == [2044, 2046, *pieces("chatglm2-tiny").encode(prompt)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(Message, st.sampled_from(sorted(ROLE_IDS)), TEXT, st.sampled_from(["", "get_weather"])),
        min_size=1,
        max_size=4,
    )
)
def test_chatglm3_roles(messages: list[Message]) -> None:
    theirs = pieces("chatglm3-tiny")
    expected = [2044, 2046]
    for message in messages:
        expected += [ROLE_IDS[message.role], *theirs.encode(f"{message.metadata}\n"), *theirs.encode(message.content)]
    assert tokenizer("chatglm3-tiny").apply_chat_template(messages) == [*expected, ROLE_IDS["assistant"]]


def test_glm4_roles() -> None:
    messages = [
        Message("system", "Be brief."),
        Message("user", "你好"),
        Message("assistant", '{"a": 1}', "get_weather"),
    ]
    assert render(TEMPLATES["glm-4"], messages, {}) == (
        '[gMASK]<sop><|system|>\nBe brief.<|user|>\n你好<|assistant|>get_weather\n{"a": 1}<|assistant|>'
    )


@pytest.mark.parametrize(
    ("family", "messages", "reason"),
    [
        ("chatglm2", [Message("system", "x")], "alternate"),
        ("chatglm2", [Message("user", "x"), Message("user", "y")], "alternate"),
        ("chatglm3", [Message("tool", "x")], "role must be"),
        ("glm-4", [Message("user|>", "x")], "role must be"),
        ("glm-4", [], "no message"),
    ],
)
def test_turns_that_a_family_does_not_know_are_refused(family: str, messages: list[Message], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        render(TEMPLATES[family], messages, {})  # type: ignore[index]


@pytest.mark.parametrize(
    "template",
    [
        "{% for",
        "{{ messages[7].role.x }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include 'x' %}",
        "{{ 'a' + 1 }}",
        "{{ nothing() }}",
        "x" * 200_000,
    ],
)
def test_templates_that_misbehave_give_one_error(template: str) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        render(template, [Message("user", "x")], {})


def test_a_template_has_what_transformers_gives_it() -> None:
    template = "{{ eos_token }}{{ messages | tojson }}{% for m in messages %}{% break %}{% endfor %}"
    assert render(template, [Message("user", "你<")], {"eos_token": "E"}) == 'E[{"role": "user", "content": "你<"}]'


def characters(text: str) -> list[int]:
    return [ord(char) for char in text]


ENCODER = TemplateEncoder({"<s>": 1, "<s><s>": 2, "sop": 3}, frozenset({"sop"}), characters)
TEMPLATE = "<s><s>{{ messages[0].content }}<s>sop!"


def test_only_the_templates_own_special_tokens_are_special() -> None:
    assert ENCODER.ids(TEMPLATE, [Message("user", "<s>sop")], {}) == [2, *characters("<s>sop"), 1, 3, ord("!")]
    assert ENCODER.ids("people sop <s", [Message("user", "")], {}) == [*characters("people "), 3, *characters(" <s")]


@given(st.text("<s>op \ufdd0\ufdd1"))
def test_content_always_comes_back_as_text(content: str) -> None:
    assert ENCODER.ids("<s>{{ messages[0].content }}\n<s>", [Message("user", content)], {}) == [
        1,
        *characters(content),
        10,
        1,
    ]


THINKS = "{{ messages[0].content }}{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}"


@pytest.mark.parametrize(("thinking", "ends"), [(None, ""), (True, ""), (False, "</think>")])
def test_thinking_is_switched_by_the_template(thinking: bool | None, ends: str) -> None:
    assert render(THINKS, [Message("user", "hi")], {}, thinking=thinking) == f"hi{ends}"


def test_a_template_without_the_switch_refuses_it() -> None:
    with pytest.raises(CheckpointError, match="no switch for thinking"):
        render("{{ messages[0].content }}", [Message("user", "hi")], {}, thinking=False)
