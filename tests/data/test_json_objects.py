import json
from pathlib import Path
from typing import Any

import pytest

from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.data.text import Conversation, read_documents
from glmquant.errors import DataError

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def read(path: Path, value: Any, reading: Reading = Reading("calibration")) -> list[Any]:  # noqa: B008
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return list(read_documents(path, reading))


BY_PANDAS = {
    "columns": '{"text":{"0":"a","1":"b"},"label":{"0":"x","1":"y"}}',
    "split": '{"columns":["text","label"],"index":[0,1],"data":[["a","x"],["b","y"]]}',
    "list": '{"text":["a","b"],"label":["x","y"]}',
    "records": '[{"text":"a","label":"x"},{"text":"b","label":"y"}]',
    "table": '{"schema":{"fields":[{"name":"text","type":"string"}]},'
    '"data":[{"index":0,"text":"a","label":"x"},{"index":1,"text":"b","label":"y"}]}',
}
"""As ``DataFrame.to_json``, or ``to_dict``, writes the same rows with this ``orient``."""


@pytest.mark.parametrize("orient", BY_PANDAS)
def test_what_pandas_writes_is_read(tmp_path: Path, orient: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.json"
    path.write_text(BY_PANDAS[orient])
    with caplog.at_level("INFO", "glmquant"):
        assert [(each.text, each.label) for each in read_labeled(path).examples] == [("a", "x"), ("b", "y")]
    told = "a.json is one object of columns: 2 records" in caplog.text
    assert told == (orient in ("columns", "split", "list"))


def test_columns_of_texts_pairs_and_conversations(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read(path, {"text": ["a", None, "b"], "id": [1, 2, 3], "meta": [{}, {}, {}]}) == ["a\n", "b\n"]
    assert len(read(path, {"Prompt": ["a", "b"], "Completion": ["c", "d"]})) == 2
    assert read(path, {"abstract": ["a", "b"]}, Reading(text_field="abstract")) == ["a\n", "b\n"]
    (found,) = read(path, {"messages": [TURNS], "id": [1]})
    assert isinstance(found, Conversation)


@pytest.mark.parametrize(
    "record",
    [
        {"text": "one", "items": [{"name": "x"}]},
        {"text": "one", "items": []},
        {"text": "one", "tags": ["x"]},
        {"text": "one", "data": [{"id": 1}], "rows": [{"id": 2}]},
    ],
)
def test_one_record_with_a_list_beside_its_text_is_a_record(tmp_path: Path, record: dict[str, Any]) -> None:
    assert read(tmp_path / "a.json", record) == ["one\n"]


def test_one_conversation_with_lists_beside_is_a_record(tmp_path: Path) -> None:
    for beside in ({"tags": ["x", "y"]}, {"items": [{"name": "x"}]}, {"tools": [{"name": "f"}, {"name": "g"}]}):
        (found,) = read(tmp_path / "a.json", {"messages": TURNS} | beside)
        assert isinstance(found, Conversation)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            {"text": "one", "items": [{"text": "two"}]},
            ["a text, 'text', and a list of records, 'items'", "jq -c 'del(.items)'"],
        ),
        ({"text": ["a", "b"], "label": ["x"]}, ["columns of different lengths: text 2, label 1"]),
        ({"train": ROWS, "test": ROWS}, ["several lists of records: 'train', 'test'"]),
        ({"text": [1, 2]}, ["turn 1", "not an object"]),
    ],
)
def test_what_may_be_several_things_is_asked(tmp_path: Path, value: Any, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.json", value)
    assert [word for word in words if word not in str(caught.value)] == []
