import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data import encodings
from glmquant.data import text as text_module
from glmquant.data.text import read_documents
from glmquant.errors import DataError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "﻿第一行\n second\n")
    assert list(read_documents(path)) == ["第一行\n second\n"]


@given(text=st.text(alphabet="ab你😀\n", max_size=60).filter(str.strip), size=st.integers(1, 8))
def test_a_large_text_file_loses_nothing_in_pieces(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = write(tmp_path_factory.mktemp("t") / "a.txt", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "CHARACTERS_AT_ONCE", size)
        pieces = list(read_documents(path))
    assert "".join(pieces) == text
    longest_line = max((len(line) + 1 for line in text.split("\n")), default=0)
    assert all(len(piece) <= size + min(size, longest_line) for piece in pieces)


def test_jsonl_records_end_in_a_line_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": "二\\n三", "id": 1}')
    assert list(read_documents(path)) == ["one\n", "二\n三\n"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "好\nab".encode() + b"\xff", ["a.txt", "line 2", "byte offset 6", "UTF-8", "iconv"]),
        ("a.txt", "好".encode()[:2], ["a.txt", "line 1", "byte offset 0"]),
        ("a.txt", "汉字".encode("gb18030"), ["UTF-8", "byte offset 0"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xfe"}', ["a.jsonl", "line 2", "byte offset 24"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b"', ["line 2", "not JSON", "column"]),
        ("a.jsonl", b'{"texts": "a"}', ["line 1", "no field 'text'", "texts"]),
        ("a.jsonl", b'{"text": 5}', ["line 1", "int, not text"]),
        ("a.jsonl", b'{"text": "a"}\n["text"]', ["line 2", "list, not an object"]),
        ("a.jsonl", b"[1, 2]", ["not JSON"]),
        ("a.jsonl", b'{"text": "\\ud83d"}', ["line 1", "surrogate"]),
        ("a.jsonl", b"[" * 100_000, ["line 1", "cannot read this JSON"]),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", ["line 1", "cannot read this JSON"]),
    ],
)
def test_bad_input_is_named_by_file_and_place(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        list(read_documents(write(tmp_path / name, content)))
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_bad_byte_is_found_across_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"x\n" * 300 + "好".encode() * 300 + b"\xe5\x00")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "BYTES_AT_ONCE", 7)
        with pytest.raises(DataError, match="line 301, byte offset 1500"):
            list(read_documents(path))


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        list(read_documents(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="a directory, not a file"):
        list(read_documents(tmp_path))


@given(st.lists(st.text(st.characters(codec="utf-8"))).filter(any))
def test_jsonl_round_trips(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path = write(tmp_path_factory.mktemp("t") / "a.jsonl", lines)
    assert list(read_documents(path)) == [text + "\n" for text in texts]
