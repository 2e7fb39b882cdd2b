"""Tables in text: values separated by commas, tabs, semicolons or bars, under a header."""

import csv
import io
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Final, TextIO

from glmquant.data.record import Record, Tally
from glmquant.data.tab_rows import TabRows
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

SEPARATORS: Final = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
LARGEST_CELL: Final = 16 << 20
SAMPLED_ROWS: Final = 20
NAME: Final = re.compile(r"[\w .#@/-]{0,40}")
SEPARATOR_LINE: Final = re.compile(r"\ufeff?sep=(.)\r?\n")

Row = tuple[int, list[str]]


def separator_of(text: str, names: Collection[str] = ()) -> str:
    """The separator of a table that starts with ``text``: what gives one of the columns ``names``, else the most."""
    if (named := SEPARATOR_LINE.match(text)) is not None:
        return named[1]

    def rank(separator: str) -> tuple[bool, bool, int]:
        rows = _sample(text, separator)
        header = rows[0] if rows else []
        return known(header, names), all(len(row) == len(header) for row in rows), len(header)

    return max(SEPARATORS, key=rank)


def known(header: Sequence[str], names: Collection[str]) -> bool:
    """Whether one of the columns ``names`` is in a header, in any case."""
    return any(column_name(cell).casefold() in names for cell in header)


def column_name(cell: str) -> str:
    """A cell of the header without blanks and marks around it."""
    return cell.strip("\ufeff").strip()


def looks_like_table(text: str, names: Collection[str]) -> bool:
    """Whether a text without a telling name starts as a table: short names, one of ``names`` among them, and most rows
    below of as many cells, so that one that does not fit is refused and not read as prose."""
    rows = _sample(text, separator_of(text, names))
    if len(rows) < 2 or len(rows[0]) < 2 or not known(rows[0], names):
        return False
    fitting = sum(len(row) == len(rows[0]) for row in rows[1:])
    return all(NAME.fullmatch(cell.strip("\ufeff")) for cell in rows[0]) and 2 * fitting >= len(rows) - 1


def table_rows(file: TextIO, separator: str, path: Path) -> Iterator[Row]:
    """Rows that hold anything, each with the number of its last line.

    Raises:
        DataError: quotes that do not pair.
    """
    lines = _lines(file)
    first = next(lines, "")
    before = 1 if SEPARATOR_LINE.match(first) else 0
    rows = _rows_of(lines if before else chain([first], lines), separator)
    try:
        for row in rows:
            yield before + rows.line, row
    except csv.Error as error:
        raise DataError(
            f"not CSV: {error}",
            where=f"{path}, line {before + rows.line}",
            expected='texts with quotes or separators in quotes, and quotes inside them twice: "so ""called"""',
        ) from None
    finally:
        _tell(rows.literal, path)


def _tell(literal: Tally, path: Path) -> None:
    if literal.count:
        told = "%s: quotes in %d rows do not pair, and are read as characters, the first at %s"
        log.info(told, path.name, literal.count, literal.first)


def table_records(file: TextIO, separator: str, path: Path) -> Iterator[Record]:
    """The rows under the header, as records.

    Raises:
        DataError: a column named twice, a row of more or fewer cells than the header, or the header again.
    """
    rows = table_rows(file, separator, path)
    _, header = next(rows, (1, []))
    names = [column_name(cell) for cell in header]
    _refuse_repeated(names, path)
    for line, row in rows:
        require_row(row, header, separator, path, line)
        yield Record(dict(zip(names, row, strict=True)), line)


def require_row(row: Sequence[str], header: Sequence[str], separator: str, path: Path, line: int) -> None:
    """Raises DataError for a row of more or fewer cells than its header, and for the header again."""
    where = f"{path}, line {line}"
    if len(row) != len(header):
        raise DataError(
            f"a row of {len(row)} cells under a header of {len(header)}",
            where=where,
            expected=f"{', '.join(header)}, with {SEPARATORS.get(separator, repr(separator))} between them",
            hint='put a text that holds the separator, a quote or a line end in quotes: "good, but small"',
        )
    if list(row) == list(header):
        raise DataError("the header stands there again", where=where, hint="remove the line")


def _refuse_repeated(names: Sequence[str], path: Path) -> None:
    repeated = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if repeated:
        raise DataError(f"two columns are called {repeated[0]!r}", where=f"{path}, line 1", hint="rename one")


def _lines(file: TextIO) -> Iterator[str]:
    """Lines of at most a cell, so that a missing line end does not take the memory."""
    return iter(lambda: file.readline(LARGEST_CELL), "")


def _rows_of(lines: Iterator[str], separator: str, *, strict: bool = True) -> "TabRows | _QuotedRows":
    csv.field_size_limit(LARGEST_CELL)
    return TabRows(lines) if separator == "\t" else _QuotedRows(lines, separator, strict)


class _QuotedRows:
    """Rows that hold anything, as CSV writes them."""

    def __init__(self, lines: Iterator[str], separator: str, strict: bool) -> None:
        self._reader, self.literal = csv.reader(lines, delimiter=separator, strict=strict), Tally()

    def __iter__(self) -> Iterator[list[str]]:
        return (row for row in self._reader if row)

    @property
    def line(self) -> int:
        return self._reader.line_num


def _sample(text: str, separator: str) -> list[list[str]]:
    """The first rows; the last, which may be cut, is left out unless it is the only one below the header."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(islice(_rows_of(_lines(io.StringIO(text, newline="")), separator, strict=False), SAMPLED_ROWS))
    return rows
