import sys
from datetime import datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest
from pyarrow import parquet

from glmquant.data import columnar
from glmquant.data.columnar import parquet_records, workbook_records
from glmquant.data.labeled import read_labeled
from glmquant.data.streams import open_data
from glmquant.data.text import Conversation, read_documents
from glmquant.errors import DataError


def table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pa.table(columns), path, **options)
    return path


def workbook(path: Path, *sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"Sheet{number + 1}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd"])
def test_rows_of_all_row_groups_in_order(tmp_path: Path, compression: str) -> None:
    texts = [f"第{n}条" for n in range(500)]
    path = table(tmp_path / "a", {"id": list(range(500)), "text": texts}, row_group_size=90, compression=compression)
    assert list(read_documents(path)) == [text + "\n" for text in texts]


def test_only_wanted_columns_are_read(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"text": ["a"], "image": [b"x" * 100]})
    (record,) = parquet_records(open_data(path), lambda names: [name for name in names if name == "text"])
    assert record.fields == {"text": "a"}
    assert record.place == "record 1"


def test_conversations_and_dictionaries_in_parquet(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (found,) = read_documents(table(tmp_path / "chats", {"messages": [turns], "id": [1]}))
    assert isinstance(found, Conversation)
    assert [turn.content for turn in found.turns] == ["hi", "hello"]
    coded = table(tmp_path / "coded", {"text": pa.array(["a", "b", None, "a"]).dictionary_encode()})
    assert list(read_documents(coded)) == ["a\n", "b\n", "a\n"]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_a_cut_or_overwritten_file_is_damaged(tmp_path: Path, share: float) -> None:
    path = table(tmp_path / "a.parquet", {"text": [f"text {n}" for n in range(2000)]})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="damaged Parquet"):
        list(read_documents(path))
    at = int(len(whole) * share)
    path.write_bytes(whole[:at] + b"\xff" * 200 + whole[at + 200 :])
    with pytest.raises(DataError):
        list(read_documents(path))


def test_a_bomb_of_one_text_repeated_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "FREE_BYTES", 1 << 20)
    path = table(tmp_path / "a.parquet", {"text": pa.array(["x" * 100_000] * 2000).dictionary_encode()})
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match="inflates to more than"):
        for _ in read_documents(path):
            pass


def test_a_bomb_of_zeros_is_refused_by_its_footer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columnar, "FREE_BYTES", 1 << 20)
    texts = ["a" * 1000 + str(n) for n in range(20_000)]
    path = table(tmp_path / "a.parquet", {"text": texts}, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="inflates to more than"):
        list(read_documents(path))


def test_a_workbook_is_read_under_its_header(tmp_path: Path) -> None:
    rows = [[None, None], ["id", "text", "label"], [1, "今天", 3], [None, None, None], [2, "明天"]]
    path = workbook(tmp_path / "a.bin", rows, [])
    records = list(workbook_records(open_data(path)))
    assert [(record.place, record.fields) for record in records] == [
        ("row 3", {"id": "1", "text": "今天", "label": "3"}),
        ("row 5", {"id": "2", "text": "明天", "label": None}),
    ]


@pytest.mark.parametrize(
    ("sheets", "words"),
    [
        ([[["text"], ["a"]], [["text"], ["b"]]], ["2 sheets", "'Sheet1', 'Sheet2'", "CSV"]),
        ([[]], ["0 sheets"]),
        ([[["text", "text"], ["a", "b"]]], ["row 1", "two columns are called 'text'"]),
        ([[["text"], ["a", "b"]]], ["row 2", "2 cells under a header of 1"]),
    ],
)
def test_a_workbook_that_does_not_fit(tmp_path: Path, sheets: list[list[list[Any]]], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        list(read_documents(workbook(tmp_path / "a.xlsx", *sheets)))
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_damaged_workbook_and_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", [["text"], *([f"row {n}"] for n in range(3000))])
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + bytes(600) + whole[1000:])
    with pytest.raises(DataError, match="damaged"):
        list(read_documents(path))
    path.write_bytes(whole)
    monkeypatch.setattr(columnar, "LARGEST_WORKBOOK", 1000)
    with pytest.raises(DataError, match="the workbook inflates to"):
        list(read_documents(path))


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "a.parquet"), ("openpyxl", "a.xlsx")])
def test_a_missing_reader_names_the_command(
    tmp_path: Path, package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "pyarrow":
        path = table(tmp_path / name, {"text": ["a"]})
    else:
        path = workbook(tmp_path / name, [["text"], ["a"]])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs the package {package}[\s\S]*pip install 'glmquant\[data\]'"):
        list(read_documents(path))


DAY = datetime(2024, 5, 1)


def test_cells_of_a_workbook_are_read_as_they_are_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = ["a", 5, 1.0, 0.1 + 0.2, True, DAY, DAY.replace(hour=10), time(10, 30), None]
    path = workbook(tmp_path / "a.xlsx", [["id", "text"], *([1, value] for value in values)])
    with caplog.at_level("INFO", "glmquant"):
        texts = [str(text).removesuffix("\n") for text in read_documents(path)]
    assert texts == ["a", "5", "1", "0.3", "TRUE", "2024-05-01", "2024-05-01 10:00:00", "10:30:00"]
    assert "a.xlsx: numbers, dates or truth values of 7 records are read as text, the first at row 3" in caplog.text


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10.0, 9.0], ("9", "10")),
        ([True, False], ("FALSE", "TRUE")),
        ([DAY, "x"], ("2024-05-01", "x")),
    ],
)
def test_labels_of_a_workbook_are_read_as_they_are_seen(
    tmp_path: Path, values: list[Any], labels: tuple[str, ...]
) -> None:
    path = workbook(tmp_path / "a.xlsx", [["text", "label"], *(["t", value] for value in values)])
    assert read_labeled(path).labels == labels


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9], ("9", "10")),
        ([10.0, 9.5], ("9.5", "10.0")),
        ([True, False], ("False", "True")),
        ([DAY.date(), DAY.date().replace(day=2)], ("2024-05-01", "2024-05-02")),
        ([Decimal("1.50"), Decimal("2.00")], ("1.50", "2.00")),
    ],
)
def test_labels_of_parquet_are_read_as_they_are_seen(
    tmp_path: Path, values: list[Any], labels: tuple[str, ...]
) -> None:
    assert read_labeled(table(tmp_path / "a.parquet", {"text": ["a", "b"], "label": values})).labels == labels


def test_a_number_that_is_missing_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label[\s\S]*record 2"):
        read_labeled(table(tmp_path / "a.parquet", {"text": ["a", "b"], "label": [1.0, float("nan")]}))


def test_an_answer_may_be_a_number(tmp_path: Path) -> None:
    (found,) = read_documents(workbook(tmp_path / "a.xlsx", [["Question", "Answer"], ["1+1?", 2]]))
    assert isinstance(found, Conversation)
    assert [turn.content for turn in found.turns] == ["1+1?", "2"]
