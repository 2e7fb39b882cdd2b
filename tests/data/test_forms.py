"""Records of several forms in one file: each is read by its own fields and that is told, or refused by its line."""

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from glmquant.data.labeled import read_labeled
from glmquant.data.text import Conversation, read_conversations, read_documents
from glmquant.errors import DataError

PAIR = {"prompt": "hi", "completion": "hello"}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
TEXT = {"text": "one"}
READ = [("user", "hi"), ("assistant", "hello")]


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read(path: Path) -> list[Any]:
    return [
        [(turn.role, turn.content) for turn in each.turns] if isinstance(each, Conversation) else each
        for each in read_documents(path)
    ]


def test_records_of_another_form_are_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lines(tmp_path / "a.jsonl", PAIR, TEXT, CHAT, SHAREGPT, PAIR)
    assert read(path) == [READ, "one\n", READ, READ, READ]
    forms = ("2 of prompt+completion", "1 of text", "1 of messages", "1 of conversations")
    told = "; ".join(f"{form}, the first at line {line}" for line, form in enumerate(forms, start=1))
    assert f"a.jsonl holds records of 4 forms: {told}" in caplog.text


def test_a_file_of_one_form_is_not_remarked_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(lines(tmp_path / "a.jsonl", TEXT, {"text": "two", "comment": "more"}, {"id": 1, "text": "three"}))
    assert "forms" not in caplog.text


@pytest.mark.parametrize("first", [PAIR, CHAT, TEXT])
def test_a_record_without_any_usual_field_is_refused_by_its_line(tmp_path: Path, first: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"no field '\w+'[\s\S]*line 2[\s\S]*its fields are: foo, texts"):
        read(lines(tmp_path / "a.jsonl", first, {"foo": "a", "texts": "b"}))


def test_a_question_alone_is_a_conversation_without_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lines(tmp_path / "a.jsonl", PAIR, {"prompt": "why?"}, {"prompt": "who?", "completion": None}, {"prompt": ""})
    with caplog.at_level(logging.INFO, "glmquant"):
        assert read(path) == [READ]
    assert "2 of 4 records are conversations without an answer, the first at line 2" in caplog.text
    assert "1 of 4 records hold no text, the first at line 4" in caplog.text


def test_fields_that_only_some_records_have_are_read(tmp_path: Path) -> None:
    plain = {"instruction": "a", "output": "b"}
    more = plain | {"input": "c", "system": "s"}
    assert read(lines(tmp_path / "a.jsonl", plain, more)) == [
        [("user", "a"), ("assistant", "b")],
        [("system", "s"), ("user", "a\nc"), ("assistant", "b")],
    ]


NULL = {"messages": None, "conversations": None}


@pytest.mark.parametrize("records", [[NULL | CHAT, NULL | SHAREGPT], [NULL | SHAREGPT, NULL, NULL | CHAT]])
def test_of_two_conversations_the_one_that_is_there_is_read(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    assert read(lines(tmp_path / "a.jsonl", *records)) == [READ, READ]


def test_of_two_columns_of_parquet_the_one_that_is_filled_is_read(tmp_path: Path) -> None:
    rows = [NULL | CHAT | {"text": None}, NULL | SHAREGPT | {"text": None}, NULL | {"text": "one"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [READ, READ, "one\n"]


@pytest.mark.parametrize("record", [{"text": "a"} | CHAT, {"text": None, "content": "b"}, CHAT | SHAREGPT])
def test_what_may_mean_two_things_is_still_asked(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"may be meant[\s\S]*line 1"):
        read(lines(tmp_path / "a.jsonl", record))


def test_a_text_among_conversations_is_refused_by_its_line_where_it_cannot_be_scored(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a text among conversations[\s\S]*line 2"):
        list(read_conversations(lines(tmp_path / "a.jsonl", CHAT, TEXT)))


def test_labeled_texts_of_several_forms_are_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "a", "label": "x"}, {"content": "b", "category": "y"})
    assert [(example.text, example.label) for example in read_labeled(path).examples] == [("a", "x"), ("b", "y")]
    assert "1 of text and label, the first at line 1; 1 of content and category, the first at line 2" in caplog.text


def test_fields_in_capitals_are_read_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for record in ({"Input": "hi", "Output": "hello"}, {"QUESTION": "hi", "Answer": "hello"}):
        assert read(lines(tmp_path / "a.jsonl", record)) == [READ]
    with caplog.at_level(logging.INFO, "glmquant"):
        record = {"Instruction": "a", "Input": "b", "Output": "c", "System": "s", "History": [["d", "e"]]}
        assert [turn for turn, _ in read(lines(tmp_path / "b.jsonl", record))[0]] == [
            "system", "user", "assistant", "user", "assistant",
        ]  # fmt: skip
    assert "read from each record: Instruction, Output, Input, System, History" in caplog.text
