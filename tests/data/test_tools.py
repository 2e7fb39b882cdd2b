"""Conversations with tools as training data holds them, written as transformers writes them for the same messages."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glmquant.data.chat_tokens import ChatEncoder
from glmquant.data.chat_windows import read_chats
from glmquant.data.text import read_conversations
from glmquant.data.windows import TokenStream
from glmquant.errors import DataError
from glmquant.glm.tokenizers.tokenizer import GlmTokenizer
from tests.support.tool_templates import GLM_4_0414, GLM_45, GLM_47, as_transformers_has_it, tool_tokenizer

FUNCTION = {"name": "weather", "description": "天气", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": FUNCTION}]
ARGUMENTS = {"city": "北京", "days": 2}


def answered(calls: Any, content: str | None = "I look.") -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": calls}]},
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
        {"role": "assistant", "content": "Sun."},
    ]


OPENAI = answered({"name": "weather", "arguments": ARGUMENTS})
AS_TEXT = answered({"name": "weather", "arguments": json.dumps(ARGUMENTS)})
LLAMA_FACTORY = [
    {"from": "human", "value": "Weather?"},
    {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
    {"from": "observation", "value": "sunny"},
    {"from": "gpt", "value": "Sun."},
]
SILENT = answered({"name": "weather", "arguments": ARGUMENTS}, "")
RECORDS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "OpenAI": ({"messages": OPENAI, "tools": TOOLS}, OPENAI),
    "OpenAI, arguments as text": ({"messages": AS_TEXT, "tools": TOOLS}, OPENAI),
    "OpenAI, null content": (
        {"messages": answered(SILENT[1]["tool_calls"][0]["function"], None), "tools": TOOLS},
        SILENT,
    ),
    "LLaMA-Factory": ({"conversations": LLAMA_FACTORY, "tools": json.dumps([FUNCTION])}, SILENT),
    "LLaMA-Factory, whole": ({"conversations": LLAMA_FACTORY, "tools": json.dumps(TOOLS)}, SILENT),
    "in a table's cells": ({"messages": str(OPENAI), "tools": str(TOOLS)}, OPENAI),
}

LONG_OPENING = (
    "[gMASK]<sop>{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>I would say: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}[{{ call.function.name }}]{% endfor %}"
    "{% else %}<|{{ 'user' if m.role == 'user' else 'observation' }}|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>I would say: {% endif %}"
)


@pytest.fixture(scope="module")
def glm4(tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    return tool_tokenizer(tmp_path_factory.mktemp("glm4"))


@pytest.fixture(scope="module")
def theirs(glm4: GlmTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return as_transformers_has_it(glm4, tmp_path_factory.mktemp("theirs"))


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("template", [GLM_45, GLM_47], ids=["GLM-4.5", "GLM-4.7"])
def test_calibration_reads_what_transformers_writes(
    name: str, template: str, glm4: GlmTokenizer, theirs: Any, tmp_path: Path
) -> None:
    record, messages = RECORDS[name]
    text = theirs.apply_chat_template(messages, chat_template=template, tools=TOOLS, tokenize=False)
    expected = theirs(text + "<|user|>", add_special_tokens=False)["input_ids"]
    (ids_T,) = TokenStream(written(tmp_path / "a.jsonl", record), replace(glm4, chat_template=template)).documents()
    assert [*glm4.prefix_ids, *ids_T.tolist()] == expected


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (
            GLM_45,
            [
                "\n<think></think>\nI look.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>北京</arg_value>\n"
                "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call><|observation|>",
                "\n<think></think>\nSun.<|user|>",
            ],
        ),
        (
            GLM_47,
            [
                "think>I look.<tool_call>weather<arg_key>city</arg_key><arg_value>北京</arg_value>"
                "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call><|observation|>",
                "think>Sun.<|user|>",
            ],
        ),
        (
            GLM_4_0414,
            ['\nI look.<|assistant|>weather\n{"city": "北京", "days": 2}<|observation|>', "\nSun.<|user|>"],
        ),
        (LONG_OPENING, ["I look.[weather]<|observation|>", "Sun.<|user|>"]),
    ],
    ids=["GLM-4.5", "GLM-4.7", "GLM-4-0414", "a long opening"],
)
def test_words_and_calls_of_the_assistant_are_one_answer(
    template: str, answers: list[str], glm4: GlmTokenizer, tmp_path: Path
) -> None:
    tokenizer = replace(glm4, chat_template=template)
    (chat,) = read_conversations(written(tmp_path / "a.jsonl", RECORDS["OpenAI"][0]))
    encoder = ChatEncoder(tokenizer)
    ids_T = encoder.ids(chat.turns, chat.where, chat.tools)
    mask_T = encoder.answers(chat.turns, ids_T, chat.where, len(ids_T), chat.tools)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask_T.astype(int), [0]]))).reshape(-1, 2)
    shown = [tokenizer.decode(ids_T[start:end].tolist(), skip_special_tokens=False) for start, end in edges]
    for found, answer in zip(shown, answers, strict=True):
        assert found.endswith(answer)
        assert len(found) <= len(answer) + 3  # a token of the generation prompt may reach into the answer


def test_a_check_scores_answers_of_conversations_with_tools(glm4: GlmTokenizer, tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", *[RECORDS["OpenAI"][0]] * 3)
    tokenizer = replace(glm4, chat_template=GLM_45)
    chats = read_chats(path, tokenizer, num_tokens=100, seq_len=1000, scored="answers")
    whole = tokenizer.decode(chats.windows[0].tolist(), skip_special_tokens=False)
    assert "天气" in whole
    assert "sunny" in whole
    assert 0 < int(chats.scored[0].sum()) < len(chats.windows[0]) / 2


def test_tools_are_left_out_where_the_template_has_no_place_and_that_is_told_once(
    glm4: GlmTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "a.jsonl", *[RECORDS["OpenAI"][0]] * 3)
    with caplog.at_level(logging.WARNING, "glmquant"):
        found = list(TokenStream(path, glm4).documents())
    assert "天气" not in glm4.decode(found[0].tolist())
    (told,) = [record.getMessage() for record in caplog.records if "tools" in record.getMessage()]
    assert "no place for tools" in told
    assert "a.jsonl, line 1" in told


@pytest.mark.parametrize("tools", ["no list", '{"name": "f"}', [1], 5, "[1]"])
def test_tools_that_are_no_descriptions_are_named(tools: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the tools are no list of descriptions[\s\S]*a\.jsonl, line 1"):
        list(read_conversations(written(tmp_path / "a.jsonl", {"messages": OPENAI, "tools": tools})))


@pytest.mark.parametrize("tools", [None, "", " ", "[]", []])
def test_no_tools_are_none(tools: Any, tmp_path: Path) -> None:
    (chat,) = read_conversations(written(tmp_path / "a.jsonl", {"messages": OPENAI, "tools": tools}))
    assert not chat.tools
