"""Tools through chat templates: transformers' own ``apply_chat_template(tools=...)`` is the oracle."""

import json
from dataclasses import replace
from typing import Any

import pytest

from glmquant.errors import CheckpointError
from glmquant.glm.tokenizers.chat import TEMPLATES, Message, takes_tools
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer
from tests.support.tool_templates import GLM_4_0414, GLM_45, GLM_47, as_transformers_has_it, tool_tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city: 天气 <b>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
TIME = {"type": "function", "function": {"name": "time", "description": "Now", "parameters": {"type": "object"}}}
TOOLS = [WEATHER, TIME]
ARGUMENTS: dict[str, Any] = {"city": "北京", "days": 2, "units": ["C", None, True], "more": {"at": 1.5}}
TURNS = [
    Message("system", "Be brief."),
    Message("user", "Weather and time?"),
    Message("assistant", "I look."),
    Message("assistant", json.dumps(ARGUMENTS, ensure_ascii=False), "weather"),
    Message("assistant", "{}", "time"),
    Message("observation", '{"sky": "sunny"}'),
    Message("observation", "12:00"),
    Message("assistant", "", ""),
    Message("user", "And tomorrow?"),
    Message("assistant", '{"city": "北京"}', "weather"),
    Message("observation", "雨"),
]


def call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


OPENAI: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather and time?"},
    {"role": "assistant", "content": "I look.", "tool_calls": [call("weather", ARGUMENTS), call("time", {})]},
    {"role": "tool", "content": '{"sky": "sunny"}'},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "And tomorrow?"},
    {"role": "assistant", "content": "", "tool_calls": [call("weather", {"city": "北京"})]},
    {"role": "tool", "content": "雨"},
]
AS_GLM_4 = [
    {"role": turn.role, "content": turn.content} | ({"metadata": turn.metadata} if turn.metadata else {})
    for turn in TURNS
]
FORMS = {"GLM-4.5": (GLM_45, OPENAI), "GLM-4.7": (GLM_47, OPENAI), "GLM-4-0414": (GLM_4_0414, AS_GLM_4)}


@pytest.fixture(scope="module")
def glm4(tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    return tool_tokenizer(tmp_path_factory.mktemp("glm4"))


@pytest.fixture(scope="module")
def theirs(glm4: GlmTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return as_transformers_has_it(glm4, tmp_path_factory.mktemp("theirs"))


def ids_of(theirs: Any, template: str, messages: list[dict[str, Any]], **given: Any) -> list[int]:
    text = theirs.apply_chat_template(messages, chat_template=template, tokenize=False, **given)
    ids: list[int] = theirs(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize(
    ("form", "thinking"), [*((form, None) for form in FORMS), ("GLM-4.5", False), ("GLM-4.7", False)]
)
@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "no tools"])
def test_tools_calls_and_answers_are_those_of_transformers(
    form: str, tools: list[dict[str, Any]], thinking: bool | None, glm4: GlmTokenizer, theirs: Any
) -> None:
    template, messages = FORMS[form]
    switch = {} if thinking is None else {"enable_thinking": thinking}
    expected = ids_of(theirs, template, messages, tools=tools or None, add_generation_prompt=True, **switch)
    ours = replace(glm4, chat_template=template)
    assert ours.apply_chat_template(TURNS, tools=tools, thinking=thinking) == expected
    shown = ours.decode(expected, skip_special_tokens=False)
    assert all(said in shown for said in ("weather", "北京", "sunny", "12:00", "雨", "I look."))
    assert ("天气" in shown) == bool(tools)


@pytest.mark.parametrize("form", FORMS)
def test_special_tokens_within_tools_stay_text(form: str, glm4: GlmTokenizer) -> None:
    """Where transformers would open a turn."""
    ours = replace(glm4, chat_template=FORMS[form][0])
    user = glm4.apply_chat_template([Message("user", "")], add_generation_prompt=False)[2]

    def written(word: str) -> list[int]:
        turns = [
            Message("user", "a"),
            Message("assistant", json.dumps({word: [word, {"b": word}]}), word),
            Message("observation", word),
        ]
        function = {"name": word, "description": word, "parameters": {"enum": [word]}}
        return ours.apply_chat_template(turns, tools=[{"type": "function", "function": function}])

    ids = written("<|user|>")
    assert ids.count(user) == 1
    expected = ours.decode(written("WORD"), skip_special_tokens=False).replace("WORD", "<|user|>")
    assert ours.decode(ids, skip_special_tokens=False) == expected


def test_arguments_that_are_no_object_are_refused_by_a_template_that_walks_through_them(glm4: GlmTokenizer) -> None:
    ours = replace(glm4, chat_template=GLM_45)
    for content in ("[1]", "no JSON", '"text"'):
        with pytest.raises(CheckpointError, match="does not take these messages"):
            ours.apply_chat_template([Message("user", "a"), Message("assistant", content, "weather")])


def test_a_template_without_a_place_for_tools_refuses_them(glm4: GlmTokenizer) -> None:
    assert not takes_tools(TEMPLATES["glm-4"])
    assert not takes_tools(TEMPLATES["chatglm3"])  # which has one in a message alone
    assert all(takes_tools(template) for template, _ in FORMS.values())
    with pytest.raises(CheckpointError, match="no place for tools"):
        glm4.apply_chat_template([Message("user", "a")], tools=TOOLS)
