"""What a file is, by its content, and its records: JSON, tables, Parquet, Excel."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from glmquant.data.columnar import parquet_records, workbook_records
from glmquant.data.encodings import encoding_of, open_text, undecodable
from glmquant.data.fields import ANSWERS, CHATS, LABELS, QUESTIONS, TEXTS
from glmquant.data.json_objects import ONE_RECORD
from glmquant.data.json_values import json_records, looks_like_json
from glmquant.data.reading import Reading
from glmquant.data.record import Record
from glmquant.data.signatures import PARQUET, compression_of, foreign
from glmquant.data.streams import HEAD, DataFile
from glmquant.data.tables import looks_like_table, separator_of, table_records
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

Kind = Literal["text", "JSON", "a table", "Parquet", "an Excel workbook"]
NAMED: Final[dict[str, Kind]] = {
    ".json": "JSON",
    ".jsonl": "JSON",
    ".ndjson": "JSON",
    ".csv": "a table",
    ".tsv": "a table",
    ".parquet": "Parquet",
    ".xlsx": "an Excel workbook",
}
"""What an ending promises; where the content is something else, it decides, and the log says so."""
COLUMNS: Final = frozenset((*TEXTS, *CHATS, *QUESTIONS, *ANSWERS, *LABELS))
"""Names that tell a table without a telling name."""
PYTHON: Final = re.compile(r"\s*\[?\s*\{\s*'")


def kind_of(data: DataFile, reading: Reading) -> Kind:
    """What is inside, by its first bytes.

    Raises:
        DataError: what holds no text, named; text in another encoding, or bytes that are none; an ending that promises
            what the content is not.
    """
    if data.head.startswith(PARQUET):
        return "Parquet"
    if compression_of(data.head) == "zip":  # of a zip that holds data, the head is that of the data
        return "an Excel workbook"
    if (found := foreign(data.head)) is not None:
        raise DataError(f"the file is {found[0]}", where=data.path, expected="text or records of text", hint=found[1])
    promised, text = NAMED.get(data.suffix), first_characters(data, reading)
    if not text.strip() and len(data.head) < HEAD:
        raise DataError("the file holds nothing but blanks", where=data.path, expected="text or records")
    kind = _kind_of_text(text, promised, _own(reading))
    if promised not in (None, kind):
        if kind == "text":
            raise _broken_promise(data, reading, str(promised))
        log.info("%s is %s, whatever its ending says", data.path.name, kind)
    return kind


def first_characters(data: DataFile, reading: Reading) -> str:
    """The first characters inside, U+FFFD for bytes that are none in their encoding.

    Raises:
        DataError: see :func:`glmquant.data.encodings.encoding_of`.
    """
    text = data.head.decode(encoding_of(data, reading), "replace")
    return text.removeprefix("\ufeff")


def read_records(
    data: DataFile, reading: Reading, kind: Kind, wanted: Callable[[Sequence[str]], Sequence[str]] = list
) -> Iterator[Record]:
    """The records inside, in order.

    Args:
        kind: what :func:`kind_of` says; not text.
        wanted: of all columns of a Parquet file, those to read.

    Raises:
        DataError: damage, text in another encoding, or records that do not fit each other.
    """
    if kind == "Parquet":
        yield from parquet_records(data, wanted)
    elif kind == "an Excel workbook":
        yield from workbook_records(data)
    else:
        yield from _text_records(data, reading, kind)


def _text_records(data: DataFile, reading: Reading, kind: Kind) -> Iterator[Record]:
    try:
        if kind == "JSON":
            with open_text(data, reading, newline=None) as file:
                yield from json_records(file, data.path, _own(reading))
        else:
            with open_text(data, reading, newline="") as file:
                yield from table_records(file, table_separator(data, reading), data.path)
    except UnicodeDecodeError:
        raise undecodable(data, reading) from None


def table_separator(data: DataFile, reading: Reading) -> str:
    """The separator of a table, by its header."""
    return separator_of(first_characters(data, reading), COLUMNS | _own(reading))


def _own(reading: Reading) -> frozenset[str]:
    """The columns that their owner names."""
    fields = (*(reading.text_field or "").split("+"), reading.label_field or "")
    return frozenset(field.strip().casefold() for field in fields if field.strip())


def _kind_of_text(text: str, promised: Kind | None, own: frozenset[str]) -> Kind:
    if looks_like_json(text):
        return "JSON"
    if promised == "a table" or looks_like_table(text, COLUMNS | own):
        return "a table"
    return "text"


def _broken_promise(data: DataFile, reading: Reading, promised: str) -> DataError:
    text = first_characters(data, reading)
    if promised == "JSON":
        python = PYTHON.match(text) is not None
        return DataError(
            "not JSON" + (": it is Python's notation, with single quotes" if python else f": it starts {text[:30]!r}"),
            where=f"{data.path}, line 1",
            expected=ONE_RECORD,
            hint="write it with json.dumps" if python else "give it the ending .txt if it is plain text",
        )
    return DataError(f"the file is not {promised}: it is text", where=data.path, hint="give it the ending .txt")
