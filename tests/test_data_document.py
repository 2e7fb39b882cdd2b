"""Every row of the tables in docs/data.md: what it says of glmquant is what glmquant does."""

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from glmquant.data.fields import ANSWERS, CHATS, LABELS, QUESTIONS, TEXTS
from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.data.text import Conversation, read_documents
from glmquant.errors import DataError
from tests.data.test_records import FOREIGN

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
ROWS = {
    line.split(" | ")[0].removeprefix("| "): line
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| ---")
}
HEADERS = {"file", "what", "form", "labels"}
TEXT = "今天的会议改到下午一点，请把材料提前发给我。"
LINE = json.dumps({"text": TEXT}) + "\n"
TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": TEXT}]
Given = str | bytes


def read(path: Path, reading: Reading = Reading("calibration")) -> list[Any]:  # noqa: B008
    return list(read_documents(path, reading))


def texts(path: Path, content: Given, reading: Reading = Reading("calibration")) -> list[Any]:  # noqa: B008
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(path, reading)


def refused(path: Path, content: Given, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        texts(path, content)
    assert [word for word in words if word not in str(caught.value)] == []


def plain(path: Path) -> None:
    assert texts(path, TEXT) == [TEXT]


def lines(path: Path) -> None:
    assert texts(path, LINE * 2) == [TEXT + "\n"] * 2


def array(path: Path) -> None:
    assert texts(path, json.dumps([{"text": TEXT}] * 2)) == [TEXT + "\n"] * 2


def nested(path: Path) -> None:
    for key in ("data", "train", "rows"):
        assert texts(path, json.dumps({key: [{"text": TEXT}]})) == [TEXT + "\n"]


def object_of_columns(path: Path) -> None:
    assert texts(path, json.dumps({"text": [TEXT] * 2, "id": [1, 2]})) == [TEXT + "\n"] * 2


def tables(path: Path) -> None:
    for separator in ",\t;|":
        assert texts(path, f"id{separator}text\n1{separator}{TEXT}\n") == [TEXT + "\n"]


def containers(path: Path) -> None:
    for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress):
        assert texts(path, pack(LINE.encode())) == [TEXT + "\n"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jsonl", LINE)
    assert texts(path, buffer.getvalue()) == [TEXT + "\n"]


def columns(path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": [TEXT], "id": [1]}), path)
    assert read(path) == [TEXT + "\n"]


def workbook(path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["text"])
    book.active.append([TEXT])
    book.save(path)
    assert read(path) == [TEXT + "\n"]


def utf16(path: Path) -> None:
    assert texts(path, TEXT.encode("utf-16")) == [TEXT]


def encodings(path: Path) -> None:
    refused(path, (TEXT * 3).encode("gb18030"), "calibration.encoding=gb18030")
    assert texts(path, TEXT.encode("gb18030"), Reading(encoding="gb18030")) == [TEXT]


def pipes(path: Path) -> None:
    """In tests/data/test_streams.py and tests/data/test_reported_data.py."""


def arrow(path: Path) -> None:
    refused(path, FOREIGN["an Arrow file"], "an Arrow file", "Dataset.from_file")


def foreign(path: Path) -> None:
    for what, content in FOREIGN.items():
        refused(path, content, what)


def of_text(path: Path) -> None:
    for name in (*TEXTS, *QUESTIONS):
        assert f"`{name}`" in ROWS["text"]
        assert texts(path, json.dumps({name: TEXT, "id": 1})) == [TEXT + "\n"]
    assert texts(path, json.dumps({"abstract": TEXT}), Reading(text_field="abstract")) == [TEXT + "\n"]


def of_conversation(path: Path) -> None:
    for name in CHATS:
        assert f"`{name}`" in ROWS["conversation"]
        chat(path, {name: TURNS})
    (found,) = texts(path, json.dumps({"turns": TURNS}), Reading(text_field="turns"))
    assert isinstance(found, Conversation)


def of_pair(path: Path) -> None:
    for question in QUESTIONS:
        for answer in ANSWERS:
            assert f"`{question}`" in ROWS["question and answer"]
            assert f"`{answer}`" in ROWS["question and answer"]
            chat(path, {question: "hi", answer: TEXT})
    fields = {"content": "hi", "summary": TEXT}
    (found,) = texts(path, json.dumps(fields), Reading(text_field="content+summary"))
    assert isinstance(found, Conversation)


def of_label(path: Path) -> None:
    for name in LABELS:
        assert f"`{name}`" in ROWS["label"]
        assert labels(path, [{"text": "a", name: "x"}, {"text": "b", name: "y"}]) == ("x", "y")
    rows = [{"text": "a", "stars": "1"}, {"text": "b", "stars": "2"}]
    assert labels(path, rows, Reading(label_field="stars")) == ("1", "2")


def chat(path: Path, fields: dict[str, Any]) -> None:
    (found,) = texts(path, json.dumps(fields))
    assert isinstance(found, Conversation)
    assert [(turn.role, turn.content) for turn in found.turns] == [("user", "hi"), ("assistant", TEXT)]


def messages(path: Path) -> None:
    chat(path, {"messages": TURNS})
    chat(path, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, TURNS[1]]})


def sharegpt(path: Path) -> None:
    chat(path, {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": TEXT}]})


def alpaca(path: Path) -> None:
    chat(path, {"instruction": "hi", "input": "", "output": TEXT, "history": []})


def in_a_cell(path: Path) -> None:
    for write in (str, json.dumps):
        chat(path, {"messages": write(TURNS)})


def pair(path: Path) -> None:
    chat(path, {"prompt": "hi", "response": TEXT})


def tools(path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    turns = [TURNS[0], call, {"role": "tool", "content": "1"}, TURNS[1]]
    for described in ([{"name": "f"}], '[{"name": "f"}]'):
        (found,) = texts(path, json.dumps({"messages": turns, "tools": described}))
        assert found.tools == [{"type": "function", "function": {"name": "f"}}]
    assert [turn.role for turn in found.turns] == ["user", "assistant", "observation", "assistant"]


def wrong_turns(path: Path) -> None:
    image = {"role": "user", "content": [{"type": "image"}]}
    for turns in ([TURNS[1], TURNS[0]], [{"role": "narrator", "content": "a"}, TURNS[1]], [image, TURNS[1]]):
        refused(path, json.dumps({"messages": turns}), f"{path}, line 1")


def labels(path: Path, rows: list[dict[str, Any]], reading: Reading = Reading("train")) -> tuple[str, ...]:  # noqa: B008
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_labeled(path, reading=reading).labels


def labeled(*values: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {n}", "label": value} for n, value in enumerate(values)]


def names(path: Path) -> None:
    assert labels(path, labeled("b", "a")) == ("a", "b")


def whole(path: Path) -> None:
    assert labels(path, labeled(10, 9)) == ("9", "10")


def decimals(path: Path) -> None:
    with pytest.raises(DataError, match=r"the number 1\.0"):
        labels(path, labeled(1.0, 2.0))


def decimal_names(path: Path) -> None:
    path.write_text("text,label\na,10.0\nb,9.0\n")
    assert read_labeled(path).labels == ("9.0", "10.0")


def blanks(path: Path) -> None:
    assert labels(path, labeled(" a", "b", "a ")) == ("a", "b")


def alike(path: Path) -> None:
    for other in ("a\u200bé", "ae\u0301"):
        with pytest.raises(DataError, match=r"\\u"):
            labels(path, labeled("aé", other))


def by_case(path: Path) -> None:
    assert labels(path, labeled("a", "A")) == ("A", "a")


def ragged(path: Path) -> None:
    for row in ("a,b,c", "a"):
        path.write_text(f"text,label\na,b\n{row}\n")
        with pytest.raises(DataError, match="line 3"):
            read_labeled(path)


def line_files(path: Path) -> None:
    path.mkdir()
    for label in ("neg", "pos"):
        (path / f"{label}.txt").write_text("one\ntwo\n")
    assert len(read_labeled(path).examples) == 4


def text_files(path: Path) -> None:
    for label in ("neg", "pos"):
        (path / label).mkdir(parents=True)
        (path / label / "1.txt").write_text("one\ntwo\n")
    assert len(read_labeled(path).examples) == 2


def stray(path: Path) -> None:
    line_files(path)
    (path / "notes.md").write_text("x")
    with pytest.raises(DataError, match=r"notes\.md"):
        read_labeled(path)


CHECKS: dict[str, Callable[[Path], None]] = {
    "plain text": plain,
    "JSON Lines": lines,
    "JSON array": array,
    "one JSON object": nested,
    "one JSON object of columns": object_of_columns,
    "CSV, TSV": tables,
    "gzip, zstandard": containers,
    "Parquet": columns,
    "Excel": workbook,
    "UTF-16": utf16,
    "GB18030": encodings,
    "a pipe": pipes,
    "Arrow": arrow,
    "PDF": foreign,
    "text": of_text,
    "conversation": of_conversation,
    "question and answer": of_pair,
    "label": of_label,
    "`messages`": messages,
    "ShareGPT": sharegpt,
    "Alpaca": alpaca,
    "turns in a table's cell": in_a_cell,
    "prompt and response": pair,
    "tool calls": tools,
    "turns that": wrong_turns,
    "names": names,
    "whole numbers": whole,
    "`1.0`, `2.0` in JSON": decimals,
    "`1.0`, `2.0` in a table": decimal_names,
    "blanks": blanks,
    "labels that look alike": alike,
    "labels that differ by case": by_case,
    "a row": ragged,
    "a directory of `LABEL.txt`": line_files,
    "a directory of `LABEL/*.txt`": text_files,
    "a file in either": stray,
}


def check_of(row: str) -> Callable[[Path], None]:
    return CHECKS[max((start for start in CHECKS if row.startswith(start)), key=len)]


@pytest.mark.parametrize("row", [row for row in ROWS if row not in HEADERS])
def test_the_row_holds(row: str, tmp_path: Path) -> None:
    check_of(row)(tmp_path / "data")


def test_every_check_has_a_row() -> None:
    found = {check_of(row) for row in ROWS if row not in HEADERS}
    assert found == set(CHECKS.values())


def test_the_limits_are_those_of_the_code() -> None:
    from glmquant.data import columnar, json_values, streams

    assert f"{json_values.LARGEST_RECORD >> 20} million characters" in PAGE
    limits = re.search(
        r"may be (\d+) times its size, or (\d+) MiB; a workbook at most (\d+) MiB; a pipe at most (\d+) GiB", PAGE
    )
    assert limits is not None
    sizes = (streams.FREE_BYTES >> 20, columnar.LARGEST_WORKBOOK >> 20, streams.LARGEST_SPOOL >> 30)
    assert tuple(map(int, limits.groups())) == (streams.MOST_RATIO, *sizes)
