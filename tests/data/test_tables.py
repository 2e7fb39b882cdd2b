import io
from pathlib import Path

import pytest

from glmquant.data.tables import looks_like_table, separator_of, table_records
from glmquant.errors import DataError


def records(text: str) -> list[tuple[int, dict[str, str]]]:
    separator = separator_of(text, {"text", "label"})
    return [
        (each.number, each.fields) for each in table_records(io.StringIO(text, newline=""), separator, Path("a.csv"))
    ]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
def test_the_separator_is_found_by_the_header(separator: str) -> None:
    other = {",": ";", "\t": ",", ";": ",", "|": ","}[separator]
    text = f"id{separator}text{separator}label\n1{separator}one{other} two{other} three{separator}a\n"
    assert records(text) == [(2, {"id": "1", "text": f"one{other} two{other} three", "label": "a"})]


def test_quotes_line_ends_marks_and_blank_rows() -> None:
    text = '\ufeff text , label\r\n"one, ""two""\r\nthree",a\r\n\r\nb,c\r\n'
    assert records(text) == [(3, {"text": 'one, "two"\r\nthree', "label": "a"}), (5, {"text": "b", "label": "c"})]


def test_excels_separator_line_is_obeyed() -> None:
    assert records("sep=;\r\ntext;label\r\na, b;c\r\n") == [(3, {"text": "a, b", "label": "c"})]


def test_an_index_column_without_a_name() -> None:
    assert records(",text,label\n0,a,b\n") == [(2, {"": "0", "text": "a", "label": "b"})]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,label\na,b\nc, d,e\n", ["line 3", "3 cells under a header of 2", "a comma between them", "in quotes"]),
        ("text\tlabel\na\n", ["line 2", "1 cells under a header of 2", "a tab"]),
        ("text,label\na,b\ntext,label\nc,d\n", ["line 3", "the header stands there again"]),
        ("text,label,text\na,b,c\n", ["line 1", "two columns are called 'text'"]),
        ('text,label\n"a"b,c\n', ["line 2", "not CSV"]),
        ('text,label\n"a,b\n', ["line 2", "not CSV"]),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_line(text: str, words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        records(text)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "is_table"),
    [
        ("text,label\na,b\n", True),
        ("text,label\na,b\nc,d,e\n", True),
        ("id|text\n1|a\n2|b\n", True),
        ("First, some text\nand, more\n", False),
        ("text, and more\none line\n", False),
        ("text,label\n", False),
        ("a,b\n1,2\n", False),
    ],
)
def test_a_table_without_a_telling_name(text: str, is_table: bool) -> None:
    assert looks_like_table(text, {"text", "label"}) is is_table


def test_a_cell_of_a_long_document() -> None:
    assert records(f'text,label\n"{"x" * 300_000}",a\n')[0][1]["text"] == "x" * 300_000
