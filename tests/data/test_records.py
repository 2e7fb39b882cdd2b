import logging
from pathlib import Path

import pytest

from glmquant.data.reading import Reading
from glmquant.data.records import kind_of
from glmquant.data.streams import open_data
from glmquant.errors import DataError

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 100\n"
FOREIGN = {
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "an image (PNG)": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "an image (JPEG)": b"\xff\xd8\xff\xe0" + bytes(20),
    "an SQLite database": b"SQLite format 3\0" + bytes(100),
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00]\x94.",
    "an Arrow file": b"ARROW1\0\0" + bytes(50),
    "an Arrow stream": b"\xff\xff\xff\xff\x10\0\0\0" + bytes(50),
    "an old Excel or Word file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50),
    "a tar archive": b"data.txt".ljust(257, b"\0") + b"ustar\x0000" + bytes(248),
    "a numpy array": b"\x93NUMPY\x01\0" + bytes(50),
    "a Git LFS pointer": LFS.encode(),
    "an HTML page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>",
    "XML": b'<?xml version="1.0"?><doc>text</doc>',
}


def kind(path: Path, content: str | bytes, reading: Reading = Reading("calibration")) -> str:  # noqa: B008
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return kind_of(open_data(path), reading)


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["data.jsonl", "data.txt", "data"])
def test_what_holds_no_text_is_named_whatever_it_is_called(tmp_path: Path, what: str, name: str) -> None:
    with pytest.raises(DataError) as caught:
        kind(tmp_path / name, FOREIGN[what])
    assert str(caught.value).startswith(f"the file is {what}")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a", "a.dat"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [('{"text": "a"}\n{"text": "b"}\n', "JSON"), ('[\n{"text": "a"}]', "JSON")],
)
def test_json_is_json_under_any_name(tmp_path: Path, name: str, content: str, expected: str) -> None:
    assert kind(tmp_path / name, content) == expected


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "Plain text, with commas.\nAnd more, here.\n", "text"),
        ("a.md", "[a link](x), [another](y)\n", "text"),
        ("a.tex", "{\\bf bold}\n", "text"),
        ("RIFF.txt", "RIFFLES are\n", "text"),
        ("BZh.txt", "BZh is short for\n", "text"),
        ("a.csv", "text\nsingle\ncolumn\n", "a table"),
        ("a.txt", "text;label\na;b\nc;d\n", "a table"),
        ("a", "verdict\ttext\n1\ta\n", "a table"),
    ],
)
def test_text_and_tables(tmp_path: Path, name: str, content: str, expected: str) -> None:
    assert kind(tmp_path / name, content) == expected


def test_a_column_that_its_owner_names_tells_a_table(tmp_path: Path) -> None:
    content = "nr;kommentar\n1;gut\n2;schlecht\n"
    assert kind(tmp_path / "a.txt", content) == "text"
    assert kind(tmp_path / "a.txt", content, Reading("calibration", text_field="Kommentar")) == "a table"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "{'text': 'a'}\n", ["Python's notation", "json.dumps"]),
        ("a.json", "hello", ["not JSON: it starts 'hello'", ".txt"]),
        ("a.parquet", "hello", ["not Parquet: it is text"]),
        ("a.txt", " \n ", ["nothing but blanks"]),
    ],
)
def test_an_ending_that_promises_something_else(tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        kind(tmp_path / name, content)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_misleading_ending_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "glmquant"):
        kind(tmp_path / "a.csv", '{"text": "a"}')
    assert "a.csv is JSON, whatever its ending says" in caplog.text
