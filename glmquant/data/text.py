"""Read text: UTF-8 files, and JSONL with one record per line.

A file is JSONL if its name ends in ``.jsonl`` or ``.ndjson``, and plain text otherwise.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path

from glmquant.errors import DataError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
CHARACTERS_AT_ONCE = 1 << 21
BYTES_AT_ONCE = 1 << 20
ONE_RECORD = 'one JSON object per line, e.g. {"text": "…"}'


def is_jsonl(path: Path) -> bool:
    """Whether the file's name is that of JSONL."""
    return path.suffix.lower() in JSONL_SUFFIXES


def read_documents(path: Path) -> Iterator[str]:
    """The documents of a file, in order: each JSONL record's ``text`` with a newline, or the pieces of a text file.

    A text file is one document, so that it is tokenized as a whole; a file of more than two million characters is split
    at newlines.

    Raises:
        DataError: no such file, not UTF-8, or a record without text.
    """
    require_file(path)
    if is_jsonl(path):
        for line, record in read_records(path):
            yield text_field(record, "text", path, line) + "\n"
    else:
        yield from _text_pieces(path)


def read_records(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of a JSONL file with their line numbers, from 1; blank lines are skipped.

    Raises:
        DataError: no such file, not UTF-8, or a line that is not a JSON object.
    """
    require_file(path)
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            text = _decode(raw, path)
            if text.strip():
                yield number, _parse(text, path, number)


def text_field(record: dict[str, object], name: str, path: Path, line: int) -> str:
    """A text field of a record.

    Raises:
        DataError: the field is missing, is not a string, or holds an unpaired surrogate.
    """
    if name not in record:
        raise DataError(
            f"a record has no field {name!r}",
            where=f"{path}, line {line}",
            expected=ONE_RECORD,
            hint=f"its fields are: {', '.join(list(record)[:10]) or 'none'}",
        )
    value = record[name]
    if not isinstance(value, str):
        raise DataError(
            f"field {name!r} is {type(value).__name__}, not text", where=f"{path}, line {line}", expected=ONE_RECORD
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"field {name!r} holds an unpaired surrogate", where=f"{path}, line {line}", expected="UTF-8")
    return value


def require_file(path: Path) -> None:
    """Refuses a path that is no file.

    Raises:
        DataError: there is no file at ``path``.
    """
    if not path.is_file():
        what = "a directory, not a file" if path.is_dir() else "no such file"
        raise DataError(f"{what}: {path}", where=path, expected='a UTF-8 text file, or JSONL such as {"text": "…"}')


def not_utf8(path: Path) -> DataError:
    """The error for a file that is not UTF-8, saying where its first bad byte is."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset, line = 0, 1
    with path.open("rb") as file:
        while chunk := file.read(BYTES_AT_ONCE):
            pending = decoder.getstate()[0]
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                bad = offset - len(pending) + error.start
                line += (pending + chunk)[: error.start].count(b"\n")
                return _bad_byte(path, bad, line)
            line += chunk.count(b"\n")
            offset += len(chunk)
    return _bad_byte(path, offset - len(decoder.getstate()[0]), line)


def _bad_byte(path: Path, offset: int, line: int) -> DataError:
    return DataError(
        f"{path.name} is not UTF-8: the byte at offset {offset} (line {line}) cannot be decoded",
        where=f"{path}, line {line}, byte offset {offset}",
        expected="text in UTF-8",
        hint="convert it, e.g. with: iconv -f GB18030 -t UTF-8",
    )


def _decode(raw: bytes, path: Path) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise not_utf8(path) from None


def _parse(text: str, path: Path, line: int) -> dict[str, object]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not JSON: {error.msg} at column {error.colno}", where=f"{path}, line {line}", expected=ONE_RECORD
        ) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"cannot read this JSON: {error}", where=f"{path}, line {line}", expected=ONE_RECORD) from None
    if not isinstance(record, dict):
        raise DataError(
            f"the line holds {type(record).__name__}, not an object", where=f"{path}, line {line}", expected=ONE_RECORD
        )
    return record


def _text_pieces(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            while piece := file.read(CHARACTERS_AT_ONCE):
                yield piece + file.readline(CHARACTERS_AT_ONCE)
    except UnicodeDecodeError:
        raise not_utf8(path) from None
