"""JSON, a value at a time: an array, an object a line, or objects one behind another."""

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

from glmquant.data.json_objects import ONE_RECORD, records_inside
from glmquant.data.record import Record
from glmquant.errors import DataError

LARGEST_RECORD: Final = 32 << 20
"""Characters of one record, or of a file that is one object."""
CHARACTERS_AT_ONCE: Final = 1 << 16
NEAR_THE_END: Final = 16
"""An error so near the end of what was read may only mean that the value goes on."""
STARTS: Final = re.compile(r"\s*(\{\s*[\"}]|\[\s*[\[{\"\]])")
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


def looks_like_json(text: str) -> bool:
    """Whether a text starts as an object or an array of records does."""
    return STARTS.match(text.removeprefix("\ufeff")) is not None


def json_records(file: TextIO, path: Path, own: Collection[str] = ()) -> Iterator[Record]:
    """The records of JSON text; strings in an array are records with a ``text``.

    Args:
        own: fields that their owner names, in lower case.

    Raises:
        DataError: text that is not JSON, a record that is no object, or a single object of which several may be meant.
    """
    number, start = _first_piece(file)
    if start.lstrip().startswith("["):
        yield from _numbered(_Values(file, start, number, path).of_array(), path)
        return
    line = start if start.endswith("\n") else start + file.readline(LARGEST_RECORD)
    if len(line) >= LARGEST_RECORD:
        raise _too_large(path, f"line {number}")
    if (value := _whole(line)) is None:
        yield from _unwrapped(_numbered(_Values(file, line, number, path).one_by_one(), path), path, own)
    else:
        yield from _unwrapped(_lines(file, number, value, path), path, own)


def _first_piece(file: TextIO) -> tuple[int, str]:
    """The beginning of the first line that is not blank, and its number: a whole array may stand in one line."""
    number, start = 1, ""
    while not start.strip() and (piece := file.readline(CHARACTERS_AT_ONCE)):
        number += start.endswith("\n")
        start = piece
    return number, start.removeprefix("\ufeff")


def _numbered_lines(file: TextIO, path: Path, before: int) -> Iterator[tuple[int, str]]:
    number = before
    while line := file.readline(LARGEST_RECORD):
        number += 1
        if len(line) >= LARGEST_RECORD:
            raise _too_large(path, f"line {number}")
        yield number, line.removeprefix("\ufeff")


def _whole(line: str) -> dict[str, Any] | None:
    """The object that a line holds; None where it goes on in the next."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lines(file: TextIO, number: int, first: dict[str, Any], path: Path) -> Iterator[Record]:
    yield Record(first, number)
    for line_number, line in _numbered_lines(file, path, number):
        if line.strip():
            yield _record(_parsed(line, path, line_number), path, line_number)


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _not_json(error, path, f"line {number}") from None


def _not_json(error: Exception, path: Path, place: str) -> DataError:
    where = f"{path}, {place}"
    if isinstance(error, json.JSONDecodeError):
        return DataError(f"not JSON: {error.msg} at column {error.colno}", where=where, expected=ONE_RECORD)
    return DataError(f"cannot read this JSON: {error}", where=where, expected=ONE_RECORD)


def _too_large(path: Path, place: str) -> DataError:
    return DataError(
        f"one JSON value of more than {LARGEST_RECORD >> 20} million characters",
        where=f"{path}, {place}",
        expected=ONE_RECORD,
        hint="write a record a line, e.g. with: jq -c '.data[]' FILE > FILE.jsonl",
    )


def _record(value: Any, path: Path, number: int, unit: str = "line") -> Record:
    if isinstance(value, str) and unit == "record":
        return Record({"text": value}, number, unit)
    if not isinstance(value, dict):
        where = f"{path}, {unit} {number}"
        raise DataError(f"the {unit} holds {type(value).__name__}, not an object", where=where, expected=ONE_RECORD)
    return Record(value, number, unit)


def _numbered(values: Iterator[Any], path: Path) -> Iterator[Record]:
    for number, value in enumerate(values, start=1):
        yield _record(value, path, number, "record")


def _unwrapped(records: Iterator[Record], path: Path, own: Collection[str]) -> Iterator[Record]:
    """The records; where the file is one object that holds others, those."""
    first = next(records)
    second = next(records, None)
    if second is None and (inside := records_inside(first.fields, own, path)) is not None:
        yield from _numbered(iter(inside), path)
        return
    yield first
    if second is not None:
        yield second
    yield from records


class _Values:
    """Values of a text that is read piece by piece; its line ``line``, ``start``, is read already."""

    def __init__(self, file: TextIO, start: str, line: int, path: Path) -> None:
        self._file, self._text, self._at, self._path = file, start, 0, path
        self._ended, self._number, self._line = False, 0, line

    def one_by_one(self) -> Iterator[Any]:
        """Values with nothing but space between them."""
        while self._next():
            yield self._value()

    def of_array(self) -> Iterator[Any]:
        """The elements of the array that starts here."""
        self._next()
        self._at += 1
        if self._next() == "]":
            self._at += 1
        else:
            yield from self._elements()
        if self._next():
            raise self._error("something follows the array", "one array, or an object in each line")

    def _elements(self) -> Iterator[Any]:
        while True:
            self._next()
            yield self._value()
            mark = self._next()
            self._at += 1
            if mark == "]":
                return
            if mark != ",":
                raise self._error("not JSON: a comma or the array's end is missing", ONE_RECORD)

    def _next(self) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _more(self) -> bool:
        if self._ended:
            return False
        # Twice as much each time, so that a long value is not parsed too often.
        piece = self._file.read(max(CHARACTERS_AT_ONCE, len(self._text) - self._at))
        self._line += self._text.count("\n", 0, self._at)
        self._text, self._at, self._ended = self._text[self._at :] + piece, 0, not piece
        return bool(piece)

    def _value(self) -> Any:
        self._number += 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._may_go_on(error):
                    raise self._error(f"not JSON: {error.msg}", ONE_RECORD) from None
            except (ValueError, RecursionError) as error:
                raise self._error(f"cannot read this JSON: {error}", ONE_RECORD) from None
            else:
                self._at = end
                return value

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        cut = error.pos >= len(self._text) - NEAR_THE_END or error.msg.startswith("Unterminated string")
        if cut and len(self._text) - self._at > LARGEST_RECORD:
            raise _too_large(self._path, f"record {self._number}")
        return cut and self._more()

    def _error(self, what: str, expected: str) -> DataError:
        line = self._line + self._text.count("\n", 0, self._at)
        return DataError(what, where=f"{self._path}, line {line}, record {self._number}", expected=expected)
