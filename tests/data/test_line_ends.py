"""A line ends at \\n, \\r\\n or \\r; what Unicode calls a line or paragraph separator is a character of a text."""

from pathlib import Path

import pytest

from glmquant.data.labeled import read_labeled
from glmquant.data.text import read_documents, read_lines

INSIDE = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven"
LINE_ENDS = pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


@LINE_ENDS
def test_texts_to_classify(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "a.txt", f"{INSIDE}{end}{end}b{end}")
    assert list(read_lines(path)) == [(INSIDE, "line 1"), ("", "line 2"), ("b", "line 3")]


@LINE_ENDS
def test_json_lines(tmp_path: Path, end: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "{INSIDE[:9]}"}}{end}{end}{{"text": "b"}}{end}')
    assert list(read_lines(path)) == [(INSIDE[:9], "line 1"), ("b", "line 3")]


@LINE_ENDS
@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_tables(tmp_path: Path, end: str, separator: str) -> None:
    path = write(tmp_path / "a", f"text{separator}label{end}{INSIDE}{separator}x{end}b{separator}y{end}")
    assert [(each.text, each.line) for each in read_labeled(path).examples] == [(INSIDE, 2), ("b", 3)]


@LINE_ENDS
def test_a_directory_of_labels(tmp_path: Path, end: str) -> None:
    for label in ("x", "y"):
        write(tmp_path / f"{label}.txt", f"{INSIDE}{end}b{end}")
    assert [each.text for each in read_labeled(tmp_path).examples] == [INSIDE, "b"] * 2


def test_plain_text_is_one_document(tmp_path: Path) -> None:
    assert list(read_documents(write(tmp_path / "a.txt", INSIDE))) == [INSIDE]
