"""Records of Parquet files and Excel workbooks, row by row, with the columns that are wanted alone."""

import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from glmquant.data.record import Record
from glmquant.data.streams import FREE_BYTES, MOST_RATIO, DataFile, missing_reader
from glmquant.errors import DataError

ROWS_AT_ONCE: Final = 64
LARGEST_FOOTER: Final = 64 << 20
LARGEST_WORKBOOK: Final = 512 << 20
"""Bytes of XML in a workbook; its strings are in memory."""

LARGEST_WHOLE: Final = 1e15
TYPED: Final = (bool, int, float, Decimal, date, time, timedelta)
"""What cells hold beside text; a datetime is a date too."""

Wanted = Callable[[Sequence[str]], Sequence[str]]
"""Of all columns, those to read."""


def parquet_records(data: DataFile, wanted: Wanted) -> Iterator[Record]:
    """The rows of a Parquet file, 64 in memory beside the pages they lie in.

    Raises:
        DataError: no pyarrow; a damaged file; pages that inflate too far.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise missing_reader("pyarrow", "Parquet") from None
    failures = (pyarrow.ArrowException, OSError, ValueError, MemoryError, OverflowError, NotImplementedError)
    limit = max(FREE_BYTES, MOST_RATIO * data.on_disk.stat().st_size)
    path = data.seekable()
    try:
        with parquet.ParquetFile(
            path, thrift_string_size_limit=LARGEST_FOOTER, thrift_container_size_limit=1 << 20
        ) as file:
            columns = list(wanted(_refused_twice(file.schema_arrow.names, data.path)))
            _require_bounded(file.metadata, columns, limit, data.path)
            number = size = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
                size += batch.nbytes
                for fields in batch.to_pylist():
                    number += 1
                    # Beside its bytes: a batch holds a text that is repeated once.
                    size += sum(len(value) for value in fields.values() if isinstance(value, str))
                    if size > limit:
                        raise _inflates(limit, data.path)
                    yield _as_seen(fields, number, "record")
    except DataError:
        raise
    except failures as error:
        raise DataError(
            f"a damaged Parquet file: {str(error)[:200]}", where=data.path, hint="fetch or write it again"
        ) from None


def _refused_twice(names: list[str], path: Path) -> list[str]:
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise DataError(f"two columns are called {repeated[0]!r}", where=path, hint="rename one")
    return names


def _require_bounded(metadata: Any, columns: Sequence[str], limit: int, path: Path) -> None:
    """Refuses by what the footer says, before a page is read."""
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        chunks = [row_group.column(column) for column in range(row_group.num_columns)]
        needed = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
        if any(chunk.total_uncompressed_size < 0 for chunk in needed):
            raise DataError("a damaged Parquet file: a size below zero", where=path)
        if sum(chunk.total_uncompressed_size for chunk in needed) > limit:
            raise _inflates(limit, path)


def _inflates(limit: int, path: Path) -> DataError:
    return DataError(
        f"it inflates to more than {limit >> 20} MiB, over {MOST_RATIO} times its size: this is no text",
        where=path,
        hint="write it again as JSON Lines, or with smaller row groups",
    )


def workbook_records(data: DataFile) -> Iterator[Record]:
    """The rows of a workbook's one filled sheet, under its first row.

    Raises:
        DataError: no openpyxl; a damaged workbook; several filled sheets; a row with more cells than the header.
    """
    try:
        import openpyxl
    except ImportError:
        raise missing_reader("openpyxl", "Excel workbooks") from None
    try:
        _require_small(data)
        with data.seekable().open("rb") as file:  # openpyxl would look at the name's ending
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            yield from _sheet_records(book, data.path)
    except DataError:
        raise
    except Exception as error:  # openpyxl lets through what its XML, its zip and its own checks raise
        raise DataError(
            f"a damaged workbook: {type(error).__name__}: {str(error)[:200]}",
            where=data.path,
            hint="save it again, or as CSV in UTF-8",
        ) from None


def _require_small(data: DataFile) -> None:
    with zipfile.ZipFile(data.on_disk) as archive:
        size = sum(member.file_size for member in archive.infolist())
    limit = min(LARGEST_WORKBOOK, max(FREE_BYTES, MOST_RATIO * data.on_disk.stat().st_size))
    if size > limit:
        raise DataError(
            f"the workbook inflates to {size >> 20} MiB; at most {limit >> 20} are read",
            where=data.path,
            hint="save it as CSV in UTF-8",
        )


def _sheet_records(book: Any, path: Path) -> Iterator[Record]:
    filled = [sheet for sheet in book.worksheets if _first_row(sheet) is not None]
    if len(filled) != 1:
        titles = ", ".join(repr(sheet.title) for sheet in filled)
        raise DataError(
            f"the workbook has {len(filled)} sheets with cells" + (f": {titles}" if titles else ""),
            where=path,
            expected="one",
            hint="save the sheet you want by itself, e.g. as CSV in UTF-8",
        )
    rows = enumerate(filled[0].iter_rows(values_only=True), start=1)
    number, header = next((number, row) for number, row in rows if any(cell is not None for cell in row))
    names = _header(header, path, number)
    for number, row in rows:
        if any(cell is not None for cell in row):
            yield _as_seen(_fields(names, row, path, number), number, "row", excel=True)


def _as_seen(fields: dict[str, Any], number: int, unit: str, *, excel: bool = False) -> Record:
    """A record whose numbers, dates and truth values are written as a person sees them in the table."""
    seen = {name: _seen(value, excel) for name, value in fields.items() if isinstance(value, TYPED)}
    return Record(fields | seen, number, unit, frozenset(name for name, value in seen.items() if value is not None))


def _seen(value: Any, excel: bool) -> str | None:
    if isinstance(value, float):
        text = _as_excel_shows(value) if excel else repr(value)
        return None if math.isnan(value) else text
    if isinstance(value, datetime):
        return str(value.date() if value.timetz() == time() else value)
    return str(value).upper() if excel and isinstance(value, bool) else str(value)


def _as_excel_shows(value: float) -> str:
    """A number with the 15 digits that Excel keeps; whole ones without a point."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < LARGEST_WHOLE else f"{value:.15g}"


def _first_row(sheet: Any) -> Any:
    return next((row for row in sheet.iter_rows(values_only=True) if any(cell is not None for cell in row)), None)


def _header(cells: Sequence[Any], path: Path, number: int) -> list[str]:
    names = ["" if cell is None else str(cell).strip() for cell in cells]
    while not names[-1]:
        names.pop()
    repeated = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if repeated:
        raise DataError(f"two columns are called {repeated[0]!r}", where=f"{path}, row {number}", hint="rename one")
    return names


def _fields(names: Sequence[str], row: Sequence[Any], path: Path, number: int) -> dict[str, Any]:
    if any(cell is not None for cell in row[len(names) :]):
        raise DataError(
            f"a row of {len(row)} cells under a header of {len(names)}",
            where=f"{path}, row {number}",
            hint="name the column, or empty the cells",
        )
    return {name: row[place] if place < len(row) else None for place, name in enumerate(names)}
