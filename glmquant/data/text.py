"""Documents of a data file: plain text, records of text, conversations."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glmquant.core.protocols import Turn
from glmquant.data.conversations import turns_of
from glmquant.data.encodings import open_text, undecodable
from glmquant.data.fields import Meant, meant_fields, text_value
from glmquant.data.reading import USUAL, Reading
from glmquant.data.record import Record
from glmquant.data.records import Kind, kind_of, read_records
from glmquant.data.streams import DataFile, open_data
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

CHARACTERS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation, oldest first, and where they stand."""

    turns: Sequence[Turn]
    where: str


Document = str | Conversation


def read_documents(path: Path, reading: Reading = USUAL) -> Iterator[Document]:
    """The documents of a file, in order: each record's text with a newline, or its conversation, or the pieces of a
    plain text.

    A plain text is one document, so that it is tokenized as a whole; one of more than two million characters is split
    at newlines. Records without text are left out, and counted in the log.

    Raises:
        DataError: a file that cannot be read (docs/data.md says what can), or records none of which holds text.
    """
    data = open_data(path)
    kind = kind_of(data, reading)
    return _text_pieces(data, reading) if kind == "text" else _documents(data, reading, kind)


def read_lines(path: Path, reading: Reading = USUAL) -> Iterator[tuple[str, str]]:
    """Texts to classify with their places: each line of a plain text, or each record's text.

    Raises:
        DataError: a file that cannot be read, a conversation, or a record without text.
    """
    data = open_data(path)
    kind = kind_of(data, reading)
    if kind == "text":
        for number, line in enumerate("".join(_text_pieces(data, reading)).splitlines(), start=1):
            yield line, f"line {number}"
        return
    for record, meant, _ in meant_records(data, reading, kind, chats=False):
        yield required_text(record, meant.text, path), record.place


def required_text(record: Record, name: str, path: Path) -> str:
    """A record's text. Raises DataError where it has none."""
    text = text_value(record, name, path)
    if text is None:
        raise DataError(
            "a record has no text", where=f"{path}, {record.place}", hint=f"fill {name!r}, or drop the record"
        )
    return text


def meant_records(
    data: DataFile,
    reading: Reading,
    kind: Kind,
    *,
    chats: bool,
    beside: Callable[[Sequence[str], str], str] = lambda names, place: "",
) -> Iterator[tuple[Record, Meant, str]]:
    """The records inside, and which of their fields are read: decided by the first, told in the log.

    Args:
        chats: conversations are read too.
        beside: of a record's fields and its place, a further field to read.
    """

    def chosen(names: Sequence[str], place: str) -> tuple[Meant, str]:
        return meant_fields(names, reading, data.path, place, chats=chats), beside(names, place)

    def wanted(names: Sequence[str]) -> Sequence[str]:
        meant, other = chosen(names, "its columns")
        return [name for name in names if name in (*meant.columns, other)]

    fields: tuple[Meant, str] | None = None
    for record in read_records(data, reading, kind, wanted):
        if fields is None:
            fields = chosen(list(record.fields), record.place)
            _tell(data, kind, *fields, record)
        yield record, *fields


def holds_conversations(path: Path, reading: Reading = USUAL) -> bool:
    """Whether the first document of a file is a conversation. Raises DataError as :func:`read_documents`."""
    return isinstance(next(read_documents(path, reading), None), Conversation)


def _tell(data: DataFile, kind: Kind, meant: Meant, beside: str, record: Record) -> None:
    """What is read, unless it is what every release read: a text, and a label."""
    read = [name for name in (*meant.columns, beside) if name]
    left = [name for name in record.fields if name and name not in read]
    if set(read) - {"text", "label"} or kind not in ("JSON", "a table"):
        unread = f"; not read: {', '.join(left[:10])}" if left else ""
        log.info("%s is %s; read from each record: %s%s", data.path.name, kind, ", ".join(read), unread)


def _documents(data: DataFile, reading: Reading, kind: Kind) -> Iterator[Document]:
    total = empty = tools = 0
    for record, meant, _ in meant_records(data, reading, kind, chats=True):
        document = _document(record, meant, data.path)
        total += 1
        empty += document is None or document == "\n"
        tools += bool(record.fields.get("tools"))
        if document is not None:
            yield document
    if empty == total:
        raise DataError(f"none of the {total} records holds text", where=data.path, expected="text")
    if empty:
        log.info("%s: %d of %d records hold no text", data.path.name, empty, total)
    if tools:
        log.warning("%s: the tools that %d conversations describe are left out", data.path.name, tools)


def _document(record: Record, meant: Meant, path: Path) -> Document | None:
    where = f"{path}, {record.place}"
    value = record.fields.get(meant.text)
    if meant.answer is None and not (isinstance(value, list) or _is_turns(value)):
        text = text_value(record, meant.text, path)
        return None if text is None else text + "\n"
    turns = turns_of(record, meant, where)
    return None if turns is None else Conversation(turns, where)


def _is_turns(value: object) -> bool:
    """Whether the text in a table's cell is a list of turns, as JSON."""
    return isinstance(value, str) and value.startswith('[{"') and ('"role"' in value or '"from"' in value)


def _text_pieces(data: DataFile, reading: Reading) -> Iterator[str]:
    try:
        with open_text(data, reading, newline=None) as file:
            while piece := file.read(CHARACTERS_AT_ONCE):
                yield piece + file.readline(CHARACTERS_AT_ONCE)
    except UnicodeDecodeError:
        raise undecodable(data, reading) from None
