import json
import logging
from pathlib import Path

import pytest

from glmquant.data.fields import Meant, label_field, meant_fields
from glmquant.data.reading import Reading
from glmquant.data.text import read_documents, read_lines
from glmquant.errors import DataError
from glmquant.recipe.load import load_recipe, parse_override

FILE = Path("a.jsonl")


def meant(names: list[str], field: str | None = None, *, chats: bool = True) -> Meant:
    return meant_fields(names, Reading("calibration", text_field=field), FILE, "line 1", chats=chats)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["id", "text"], "text"),
        (["Text", "label"], "Text"),
        (["title", "content"], "content"),
        (["sentence", "idx"], "sentence"),
        (["prompt", "id"], "prompt"),
        (["question"], "question"),
        (["messages", "prompt", "prompt_id"], "messages"),
        (["conversations", "id"], "conversations"),
        (["instruction", "input", "output"], "instruction+output"),
        (["prompt", "completion"], "prompt+completion"),
        (["question", "answer", "id"], "question+answer"),
        (["content", "summary"], "content"),
    ],
)
def test_the_usual_fields_by_themselves(names: list[str], expected: str) -> None:
    assert str(meant(names)) == expected


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["text", "content"], ["both 'text' and 'content'", "calibration.text_field=content"]),
        (["text", "instruction", "output"], ["'instruction'", "'text'", "calibration.text_field=instruction+output"]),
        (["text", "messages"], ["both 'messages' and 'text'"]),
        (["prompt", "chosen", "rejected"], ["both 'chosen' and 'rejected'"]),
        (["txt"], ["no field 'text'", "did you mean 'txt'?", "calibration.text_field=txt"]),
        (["id", "url"], ["no field 'text'", "its fields are: id, url"]),
        ([], ["none of its fields has a name"]),
    ],
)
def test_what_cannot_be_told_is_named_with_the_key(names: list[str], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        meant(names)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("record", [{"text": "a", "content": "b"}, {"txt": "a"}, {"the review": "a"}])
def test_the_advice_reads_the_file(tmp_path: Path, record: dict[str, str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        list(read_documents(path, Reading("calibration")))
    advice = str(caught.value.hint).partition(" or ")[0].rpartition("set ")[2]
    options = load_recipe(None, dict([parse_override(advice)])).calibration
    assert list(read_documents(path, Reading("calibration", text_field=options.text_field))) == ["a\n"]


def test_a_named_field_in_another_case_and_a_near_miss() -> None:
    assert str(meant(["Review", "text"], "review")) == "Review"
    assert str(meant(["content", "summary"], "content+summary")) == "content+summary"
    assert str(meant(["a+b"], "a+b")) == "a+b"
    with pytest.raises(DataError, match=r"no field 'reviw'[\s\S]*one of its fields: review, text[\s\S]*did you mean"):
        meant(["review", "text"], "reviw")


def test_labels() -> None:
    reading = Reading("train")
    assert label_field(["text", "label", "label_text"], reading, FILE, "line 1") == "label"
    assert label_field(["text", "Sentiment"], reading, FILE, "line 1") == "Sentiment"
    with pytest.raises(DataError, match=r"both 'label' and 'category'[\s\S]*train\.label_field=label or"):
        label_field(["text", "category", "label"], reading, FILE, "line 1")
    with pytest.raises(DataError, match=r"no field 'label'[\s\S]*did you mean 'lable'\? set train\.label_field=lable"):
        label_field(["text", "lable"], reading, FILE, "line 1")


def test_null_and_empty_records_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": "a"}\n{"text": ""}\n', encoding="utf-8")
    with caplog.at_level(logging.INFO, "glmquant"):
        assert list(read_documents(path)) == ["a\n", "\n"]
    assert "a.jsonl: 2 of 3 records hold no text" in caplog.text
    path.write_text('{"text": null}\n{"text": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match="none of the 2 records holds text"):
        list(read_documents(path))


def test_what_is_read_and_what_is_not_stands_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "a", "summary": "b"}\n', encoding="utf-8")
    with caplog.at_level(logging.INFO, "glmquant"):
        assert list(read_documents(path)) == ["a\n"]
    assert "read from each record: content; not read: summary" in caplog.text


def test_texts_to_classify_are_lines_or_records(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert list(read_lines(tmp_path / "a.txt")) == [("one", "line 1"), ("", "line 2"), ("two", "line 3")]
    (tmp_path / "a.csv").write_text("id,review\n1,one\n", encoding="utf-8")
    assert list(read_lines(tmp_path / "a.csv")) == [("one", "line 2")]
    (tmp_path / "c.csv").write_text("id,abstract\n1,one\n", encoding="utf-8")
    spelled = Reading(options={"text_field": "--text-field"})
    with pytest.raises(DataError, match="its fields are: id, abstract; give --text-field FIELD"):
        list(read_lines(tmp_path / "c.csv", spelled))
    (tmp_path / "b.jsonl").write_text('{"text": null}\n', encoding="utf-8")
    with pytest.raises(DataError, match="a record has no text"):
        list(read_lines(tmp_path / "b.jsonl"))
