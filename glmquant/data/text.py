"""Documents of a data file: plain text, records of text, conversations."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glmquant.core.protocols import Turn
from glmquant.data.cells import looks_like_turns, turns_in_cell
from glmquant.data.conversations import tools_of, turns_of
from glmquant.data.encodings import open_text, undecodable
from glmquant.data.fields import CHATS, Meant, text_value
from glmquant.data.forms import Form, Forms
from glmquant.data.reading import USUAL, Reading
from glmquant.data.record import Record, Tally
from glmquant.data.records import Kind, kind_of, read_records
from glmquant.data.streams import DataFile, open_data
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

CHARACTERS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation, oldest first, and where they stand.

    Attributes:
        tools: that it describes, as OpenAI's API has them.
    """

    turns: Sequence[Turn]
    where: str
    tools: Sequence[Mapping[str, Any]] = ()


Document = str | Conversation


def read_documents(path: Path, reading: Reading = USUAL) -> Iterator[Document]:
    """The documents of a file, in order: each record's text with a newline, or its conversation, or the pieces of a
    plain text.

    A plain text is one document, so that it is tokenized as a whole; one of more than two million characters is split
    at newlines. Records without text are left out, and counted in the log.

    Raises:
        DataError: a file that cannot be read (docs/data.md says what can), or records none of which holds text.
    """
    return (document for document, _ in _placed(path, reading))


def read_conversations(path: Path, reading: Reading = USUAL) -> Iterator[Conversation]:
    """As :func:`read_documents`; a text among them is an error that names its place."""
    for document, place in _placed(path, reading):
        if isinstance(document, str):
            raise DataError(
                "a text among conversations",
                where=f"{path}, {place}",
                expected="conversations alone",
                hint="check texts and conversations apart, in files of their own",
            )
        yield document


def _placed(path: Path, reading: Reading) -> Iterator[tuple[Document, str]]:
    data = open_data(path)
    kind = kind_of(data, reading)
    if kind == "text":
        return ((piece, "line 1") for piece in _text_pieces(data, reading))
    return _documents(data, reading, kind)


def read_lines(path: Path, reading: Reading = USUAL) -> Iterator[tuple[str, str]]:
    """Texts to classify with their places: each line of a plain text, or each record's text.

    Raises:
        DataError: a file that cannot be read, a conversation, or a record without text.
    """
    data = open_data(path)
    kind = kind_of(data, reading)
    if kind == "text":
        for number, line in enumerate("".join(_text_pieces(data, reading)).removesuffix("\n").split("\n"), start=1):
            yield line, f"line {number}"
        return
    for record, form in formed_records(data, reading, kind, chats=False):
        yield required_text(record, form.meant.text, path), record.place


def required_text(record: Record, name: str, path: Path) -> str:
    """A record's text. Raises DataError where it has none."""
    text = text_value(record, name, path)
    if text is None:
        raise DataError(
            "a record has no text", where=f"{path}, {record.place}", hint=f"fill {name!r}, or drop the record"
        )
    return text


def formed_records(
    data: DataFile, reading: Reading, kind: Kind, *, chats: bool, labeled: bool = False
) -> Iterator[tuple[Record, Form]]:
    """The records inside, each with the fields that are read of it, which are told in the log.

    Args:
        chats: conversations are read too.
        labeled: a label is read beside the text.
    """
    forms = Forms(data.path, reading, chats=chats, labeled=labeled)
    told = False
    try:
        for record in read_records(data, reading, kind, forms.columns):
            form = forms.of(record)
            if not told:
                _tell(data, kind, form, record)
                told = True
            yield record, form
    finally:
        forms.tell()


def holds_conversations(path: Path, reading: Reading = USUAL) -> bool:
    """Whether the first document of a file is a conversation. Raises DataError as :func:`read_documents`."""
    return isinstance(next(read_documents(path, reading), None), Conversation)


def _tell(data: DataFile, kind: Kind, form: Form, record: Record) -> None:
    """What is read, unless it is what every release read: a text, and a label."""
    left = [name for name in record.fields if name and name not in form.names]
    if set(form.names) - {"text", "label"} or kind not in ("JSON", "a table"):
        unread = f"; not read: {', '.join(left[:10])}" if left else ""
        log.info("%s is %s; read from each record: %s%s", data.path.name, kind, ", ".join(form.names), unread)


def _documents(data: DataFile, reading: Reading, kind: Kind) -> Iterator[tuple[Document, str]]:
    """Documents, each with its place."""
    total, empty, unanswered = 0, Tally(), Tally()
    for record, form in formed_records(data, reading, kind, chats=True):
        document = _document(record, form.meant, data.path)
        total += 1
        if document is None and record.fields.get(form.meant.text):
            unanswered.add(record.place)
        elif document in (None, "\n"):
            empty.add(record.place)
        if document is not None:
            yield document, record.place
    _tell_left_out(data, total, empty, unanswered)


def _tell_left_out(data: DataFile, total: int, empty: Tally, unanswered: Tally) -> None:
    if empty.count + unanswered.count == total:
        raise DataError(
            f"none of the {total} records holds text" + (" and an answer" if unanswered.count else ""),
            where=data.path,
            expected="text",
        )
    for left, what in ((empty, "hold no text"), (unanswered, "are conversations without an answer")):
        if left.count:
            log.info("%s: %d of %d records %s, the first at %s", data.path.name, left.count, total, what, left.first)


def _document(record: Record, meant: Meant, path: Path) -> Document | None:
    where, value = f"{path}, {record.place}", record.fields.get(meant.text)
    if meant.answer is None and isinstance(value, str) and looks_like_turns(value):
        given, value = value, turns_in_cell(value)
        if value is None and meant.text.strip().casefold() in CHATS:
            raise _no_turns(given, where)
        record = record if value is None else replace(record, fields=record.fields | {meant.text: value})
    if meant.answer is None and not isinstance(value, list):
        text = text_value(record, meant.text, path)
        return None if text is None else text + "\n"
    turns = turns_of(record, meant, where)
    return None if turns is None else Conversation(turns, where, tools_of(record, meant, where))


def _no_turns(given: str, where: str) -> DataError:
    return DataError(
        f"the cell starts as a list of turns, and is none that can be read: {given[:60]!r}",
        where=where,
        expected="JSON, or a list of dictionaries as Python writes it, whole",
        hint="write the data as JSON Lines or Parquet: in pandas, .to_json('data.jsonl', orient='records', lines=True)",
    )


def _text_pieces(data: DataFile, reading: Reading) -> Iterator[str]:
    try:
        with open_text(data, reading, newline=None) as file:
            while piece := file.read(CHARACTERS_AT_ONCE):
                yield piece + file.readline(CHARACTERS_AT_ONCE)
    except UnicodeDecodeError:
        raise undecodable(data, reading) from None
