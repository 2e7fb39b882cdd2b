"""Quotes in tab-separated text, as a spreadsheet writes them and as what knows no quotes does."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.data.reading import USUAL
from glmquant.data.records import kind_of
from glmquant.data.streams import open_data
from glmquant.data.tab_rows import TabRows
from glmquant.data.tables import separator_of, table_rows
from glmquant.errors import DataError

CELL = st.text(alphabet='ab"\n\r ', max_size=8)


def rows(text: str) -> list[tuple[int, list[str]]]:
    return list(table_rows(io.StringIO(text, newline=""), "\t", Path("a.tsv")))


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('5" disk\tpos', ['5" disk', "pos"]),
        ('"5 inch" disk\tpos', ['"5 inch" disk', "pos"]),
        ('"\tpos', ['"', "pos"]),
        ('pos\t"hello', ["pos", '"hello']),
        ('"whole"\tpos', ["whole", "pos"]),
        ('"a ""b"""\tpos', ['a "b"', "pos"]),
        ('"a\tb"\tpos', ["a\tb", "pos"]),
        ('"one\n\ntwo"\tpos', ["one\n\ntwo", "pos"]),
        ('pos\t"one\r\ntwo"', ["pos", "one\r\ntwo"]),
    ],
)
def test_a_row_is_read_as_it_was_meant(line: str, cells: list[str]) -> None:
    for rest in ("", "\nc\td\n", '\n\n"c\td\n'):
        found = [row for _, row in rows(f"text\tlabel\n{line}{rest}")]
        assert found == [["text", "label"], cells, *([[rest.strip()[:-2], "d"]] if rest else [])]


def test_no_row_is_swallowed_by_a_lone_quote_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "glmquant"):
        assert rows('text\tlabel\n"hello\tpos\nworld"\tneg\n"so\tpos\n') == [
            (1, ["text", "label"]),
            (2, ['"hello', "pos"]),
            (3, ['world"', "neg"]),
            (4, ['"so', "pos"]),
        ]
    assert "a.tsv: quotes in 2 rows do not pair, and are read as characters, the first at line 2" in caplog.text


@pytest.mark.parametrize("text", ['text\tlabel\n"one\n', 'text\tlabel\nok\tb\n"one\ntwo\tx\ty\n'])
def test_quotes_that_make_no_row_are_refused_by_their_line(text: str) -> None:
    with pytest.raises(DataError, match=r"quotes that do not pair[\s\S]*line \d"):
        rows(text)


@given(st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=4))
def test_what_a_spreadsheet_writes_is_read_back(table: list[tuple[str, ...]]) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *table])
    lines = iter(io.StringIO(file.getvalue(), newline="").readline, "")
    assert list(TabRows(lines))[1:] == [list(row) for row in table]


def test_a_lone_quote_does_not_change_the_separator(tmp_path: Path) -> None:
    text = 'nr\tkommentar\n1\t"gut, sehr\n2\tschlecht, ja\n'
    assert separator_of(text) == "\t"
    path = tmp_path / "a.tsv"
    path.write_text(text)
    assert kind_of(open_data(path), USUAL) == "a table"
