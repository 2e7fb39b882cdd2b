from pathlib import Path
from typing import Any

import pytest

from glmquant.data.conversations import turns_of
from glmquant.data.fields import meant_fields
from glmquant.data.reading import USUAL
from glmquant.data.record import Record
from glmquant.errors import DataError

CALL = {"name": "weather", "arguments": {"city": "北京"}}
ASKED = [("user", "hi", ""), ("assistant", "hello", "")]


def turns(fields: dict[str, Any]) -> list[tuple[str, str, str]] | None:
    meant = meant_fields(list(fields), USUAL, Path("a.jsonl"), "line 1")
    found = turns_of(Record(fields, 1), meant, "a.jsonl, line 1")
    return None if found is None else [(turn.role, turn.content, turn.metadata) for turn in found]


def chat(*said: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        chat(("user", "hi"), ("assistant", "hello")),
        chat(("USER", [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]), ("assistant", "hello")),
        {"messages": '[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]'},
        {"instruction": "hi", "input": "", "output": "hello"},
        {"prompt": "hi", "response": "hello"},
        {"question": "hi", "answer": "hello"},
        {
            "messages": [
                {"role": None, "content": None, "from": "human", "value": "hi"},
                {"role": "assistant", "content": "hello", "from": None, "value": None, "tool_calls": None},
            ]
        },
        {"messages": [{"Role": "user", "Content": "hi"}, {"Role": "assistant", "Content": "hello"}]},
    ],
    ids=[
        "ShareGPT",
        "messages",
        "parts",
        "JSON in a cell",
        "Alpaca",
        "prompt and response",
        "question and answer",
        "columns of two forms",
        "capitals",
    ],
)
def test_every_form_gives_the_same_turns(fields: dict[str, Any]) -> None:
    assert turns(fields) == ASKED


def test_alpaca_with_input_history_and_system() -> None:
    fields = {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "s"}
    roles = [
        ("system", "s", ""),
        ("user", "d", ""),
        ("assistant", "e", ""),
        ("user", "a\nb", ""),
        ("assistant", "c", ""),
    ]
    assert turns(fields) == roles


@pytest.mark.parametrize(
    "fields",
    [
        {
            "messages": [
                {"role": "user", "content": "weather?"},
                {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
                {"role": "tool", "content": "sunny"},
                {"role": "assistant", "content": "sun"},
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "weather?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
                {"from": "observation", "value": "sunny"},
                {"from": "gpt", "value": "sun"},
            ]
        },
    ],
    ids=["messages", "ShareGPT"],
)
def test_a_tool_call_is_written_as_glm_writes_it(fields: dict[str, Any]) -> None:
    assert turns(fields) == [
        ("user", "weather?", ""),
        ("assistant", '{"city": "北京"}', "weather"),
        ("observation", "sunny", ""),
        ("assistant", "sun", ""),
    ]


@pytest.mark.parametrize(
    "fields", [{"messages": None}, {"messages": []}, {"prompt": "a", "response": ""}, chat(("user", "a"))]
)
def test_a_record_without_an_answer_is_empty(fields: dict[str, Any]) -> None:
    assert turns(fields) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (chat(("assistant", "a"), ("user", "b")), ["turn 1 is 'assistant', at the beginning", "leave it out"]),
        (chat(("user", "a"), ("user", "b"), ("assistant", "c")), ["turn 2 is 'user', behind 'user'"]),
        (chat(("user", "a"), ("assistant", "b"), ("assistant", "c")), ["turn 3 is 'assistant', behind 'assistant'"]),
        (chat(("user", "a"), ("assistant", "b"), ("system", "c")), ["turn 3 is 'system'"]),
        (chat(("user", "a"), ("narrator", "b")), ["turn 2", "the turn's role is 'narrator'", "user, human, assistant"]),
        ({"messages": ["a"]}, ["turn 1", "the turn is str"]),
        ({"messages": "a"}, ["the conversation is str, not a list of turns"]),
        (chat(("user", [{"type": "image_url"}]), ("assistant", "a")), ["turn 1", "'image_url'", "text alone"]),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "text": "b"}]},
            ["turn 2", "neither content nor value", "its fields are: role, text"],
        ),
        (chat(("user", 5), ("assistant", "a")), ["turn 1", "int, not text"]),
        (chat(("user", "\ud83d"), ("assistant", "a")), ["turn 1", "unpaired surrogate"]),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{}]}]},
            ["without a name"],
        ),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, ["history is no list of questions and answers"]),
    ],
)
def test_turns_that_cannot_be_understood_are_named(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        turns(fields)
    assert [word for word in ["a.jsonl, line 1", *words] if word not in str(caught.value)] == []


@pytest.mark.parametrize("history", [5, True, "ab", {"ab": 1}, ["ab", "cd"], [["a"]]])
def test_a_history_is_never_made_of_letters(history: Any) -> None:
    with pytest.raises(DataError, match="no list of questions and answers"):
        turns({"instruction": "a", "output": "b", "history": history})


@pytest.mark.parametrize("calls", [5, True, "call"])
def test_calls_that_are_no_list_are_refused(calls: Any) -> None:
    with pytest.raises(DataError, match="not a list"):
        turns(
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": calls}]}
        )
