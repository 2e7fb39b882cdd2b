import json
from pathlib import Path

import pytest

from glmquant.data.alike import escaped
from glmquant.data.labeled import read_labeled
from glmquant.errors import DataError


def labels(path: Path, *values: str) -> tuple[str, ...]:
    path.write_text("".join(json.dumps({"text": "t", "label": value}) + "\n" for value in values))
    return read_labeled(path).labels


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ("po\u200bs a", r"'po\u200bs a'"),
        ("\ufeffpos a", r"'\ufeffpos a'"),
        ("pos\xa0a", r"'pos\u00a0a'"),
        ("pos\u3000a", r"'pos\u3000a'"),
        ("pos  a", "'pos  a'"),
        ("pos a\ufe0f", r"'pos a\ufe0f'"),
        ("pos\ta", r"'pos\u0009a'"),
    ],
)
def test_labels_that_look_alike_are_refused_and_shown_escaped(tmp_path: Path, other: str, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        labels(tmp_path / "a.jsonl", "neg", "pos a", other)
    assert f"the labels 'pos a' and {shown} look alike" in str(caught.value)
    assert str(caught.value.where).endswith("a.jsonl, line 3")


def test_one_character_in_two_encodings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the labels 'é' and 'e\\u0301' look alike"):
        labels(tmp_path / "a.jsonl", "é", "e\u0301")


def test_labels_that_differ_by_case_alone_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert labels(tmp_path / "a.jsonl", "Pos", "pos", "neg") == ("Pos", "neg", "pos")
    assert "the labels 'Pos', 'pos' differ by case alone; each is taken as one of its own" in caplog.text


def test_what_is_seen_is_shown_as_it_is() -> None:
    assert escaped("好 é 👍") == "'好 é 👍'"
    assert escaped("\U000e0041") == r"'\U000e0041'"
