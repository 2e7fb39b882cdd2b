import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data import json_values
from glmquant.data.json_values import json_records, looks_like_json
from glmquant.errors import DataError

RECORDS: list[dict[str, Any]] = [{"text": "一"}, {"text": 'two "so"', "n": [1, {"a": None}]}, {"text": "三\n"}]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda each: st.lists(each, max_size=3),
    max_leaves=6,
)


def records(text: str) -> list[dict[str, Any]]:
    return [record.fields for record in json_records(io.StringIO(text), Path("a.json"))]


def places(text: str) -> list[str]:
    return [record.place for record in json_records(io.StringIO(text), Path("a.json"))]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, RECORDS)),
        "\ufeff" + "\r\n\r\n".join(map(json.dumps, RECORDS)) + "\n",
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        "\n".join(json.dumps(record, indent=2) for record in RECORDS),
        json.dumps({"version": 1, "data": RECORDS}),
        json.dumps({"train": RECORDS, "notes": ["x"]}, indent=1),
    ],
    ids=["lines", "marked lines", "array", "pretty array", "pretty objects", "one object", "pretty object"],
)
def test_every_layout_gives_the_same_records(text: str) -> None:
    assert records(text) == RECORDS
    assert looks_like_json(text)


@given(st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), min_size=1), st.integers(1, 40))
def test_an_array_read_in_small_pieces_loses_nothing(values: list[dict[str, Any]], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "CHARACTERS_AT_ONCE", size)
        assert records(json.dumps(values, indent=1)) == values


def test_places_are_lines_or_records() -> None:
    assert places('\n{"a": 1}\n  \n{"b": 2}\n') == ["line 2", "line 4"]
    assert places('[{"a": 1}, {"b": 2}]') == ["record 1", "record 2"]


def test_strings_of_an_array_are_texts() -> None:
    assert records('["one", "two"]') == [{"text": "one"}, {"text": "two"}]
    assert records("[]") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1}\n{"a": }\n', ["line 2", "not JSON", "column 7"]),
        ('{"a": 1}\n[1]\n', ["line 2", "list, not an object"]),
        ('[{"a": 1},\n {"a": }]', ["line 2, record 2", "not JSON: Expecting value"]),
        ('[{"a": 1} {"a": 2}]', ["record 1", "a comma or the array's end is missing"]),
        ('[{"a": 1}, {"a": "b', ["record 2", "Unterminated string"]),
        ('[{"a": 1}', ["a comma or the array's end is missing"]),
        ('[{"a": 1}]\n[{"a": 2}]', ["something follows the array"]),
        ('[{"a": 1}, 5]', ["record 2", "int, not an object"]),
        ('{"a": ' + "[" * 100_000, ["line 1", "cannot read this JSON"]),
        (
            '{"train": [{"a": 1}], "test": [{"a": 2}]}',
            ["several lists of records: 'train', 'test'", "jq -c '.train[]'"],
        ),
    ],
)
def test_bad_json_is_named_by_its_place(text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        records(text)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_malformed_record_is_found_before_the_rest_is_read() -> None:
    file = io.StringIO('[{"a": 1x}, ' + '{"a": 2}, ' * 1_000_000)
    with pytest.raises(DataError, match="record 1"):
        list(json_records(file, Path("a.json")))
    assert file.tell() < 1_000_000


def test_a_record_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "LARGEST_RECORD", 1000)
    for text in ('{"a": "' + "x" * 2000, '[{"a": "' + "x" * 2000, '{"a": 1}\n{"a": "' + "x" * 2000):
        with pytest.raises(DataError, match="one JSON value of more than"):
            records(text)


@pytest.mark.parametrize("text", ["[link](x)", "{note} one", "[1] First", "(a)", "{\\bf x}", "[gMASK] sop"])
def test_prose_does_not_look_like_json(text: str) -> None:
    assert not looks_like_json(text)
