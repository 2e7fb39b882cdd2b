"""Which fields of a record are meant: the usual ones by themselves, others by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glmquant.data.reading import Reading, nearest
from glmquant.data.record import Record
from glmquant.errors import DataError

TEXTS: Final = ("text", "content", "sentence", "review", "document", "article", "passage", "body", "comment")
"""Fields that hold a text."""
CHATS: Final = ("messages", "conversations", "conversation", "dialogue", "dialog")
"""Fields that hold the turns of a conversation."""
QUESTIONS: Final = ("instruction", "prompt", "question", "query", "input")
ANSWERS: Final = ("output", "response", "completion", "answer")
"""A question beside an answer is a conversation of two turns."""
LABELS: Final = ("label", "labels", "category", "class", "target", "sentiment", "intent")
MOST_SHOWN: Final = 10


@dataclass(frozen=True)
class Meant:
    """The fields of a record that are read.

    Attributes:
        text: the field of a text or of a list of turns; of a pair, the question.
        answer: of a pair, the answer.
        beside: fields that go with a conversation where they are there: ``input``, ``system``, ``history``, ``tools``.
    """

    text: str
    answer: str | None = None
    beside: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text, *((self.answer,) if self.answer else ()), *self.beside)

    def __str__(self) -> str:
        return f"{self.text}+{self.answer}" if self.answer else self.text


def meant_fields(names: Sequence[str], reading: Reading, path: Path, place: str, *, chats: bool = True) -> Meant:
    """The fields to read of records that have the fields ``names``.

    Args:
        chats: conversations are read too; else text alone.

    Raises:
        DataError: no usual field, or several that mean different things, or no field of the name that its owner gave.
    """
    where = f"{path}, {place}"
    if reading.text_field is not None:
        return _named(names, reading, path, where)
    found = [*(_chats(names) if chats else ()), *(Meant(name) for name in _usual(names, TEXTS))]
    if not found:
        found = [Meant(name) for name in _usual(names, ("chosen", "rejected") if chats else ())]
    if not found:
        found = [Meant(name) for name in _usual(names, QUESTIONS)]
    if len(found) > 1:
        raise DataError(
            f"both {found[0].text!r} and {str(found[1])!r} may be meant",
            where=where,
            expected="one field to read",
            hint=" or ".join(reading.advice("text_field", str(each), path) for each in found[:2]),
        )
    if not found:
        raise _no_field(TEXTS[0], names, reading, path, where)
    return _with_company(found[0], names)


def label_field(names: Sequence[str], reading: Reading, path: Path, place: str) -> str:
    """The field that holds a record's label; see :func:`meant_fields`."""
    where = f"{path}, {place}"
    if reading.label_field is not None:
        return resolved(reading.label_field, names, where)
    found = _usual(names, LABELS)
    if len(found) > 1:
        raise DataError(
            f"both {found[0]!r} and {found[1]!r} may be meant",
            where=where,
            expected="one field to read labels from",
            hint=" or ".join(reading.advice("label_field", each, path) for each in found[:2]),
        )
    if not found:
        raise _no_field(LABELS[0], names, reading, path, where, "label_field")
    return found[0]


def resolved(name: str, names: Sequence[str], where: str) -> str:
    """The field called ``name``, whatever its case where that is clear.

    Raises:
        DataError: there is none.
    """
    if name in names:
        return name
    alike = _usual(names, (name.casefold(),))
    if len(alike) == 1:
        return alike[0]
    near = nearest(name, names)
    raise DataError(
        f"a record has no field {name!r}",
        where=where,
        expected=f"one of its fields: {_listed(names)}",
        hint=f"did you mean {near!r}?" if near else None,
    )


def text_value(record: Record, name: str, path: Path) -> str | None:
    """A text field of a record; None for null.

    Raises:
        DataError: the field is missing, is neither text nor null, or holds an unpaired surrogate.
    """
    where = f"{path}, {record.place}"
    if name not in record.fields:
        raise DataError(
            f"a record has no field {name!r}",
            where=where,
            expected="it in each record",
            hint=f"give it to this record too; its fields are: {_listed(record.fields)}",
        )
    value = record.fields[name]
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"field {name!r} is {type(value).__name__}, not text", where=where, expected="text")
    return checked(value, name, where)


def checked(text: str, name: str, where: str) -> str:
    """``text``, which holds whole characters. Raises DataError for half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"field {name!r} holds an unpaired surrogate", where=where, expected="UTF-8") from None
    return text


def _named(names: Sequence[str], reading: Reading, path: Path, where: str) -> Meant:
    name = reading.text_field or ""
    if name in names or "+" not in name:
        return _with_company(Meant(resolved(name, names, where)), names)
    question, _, answer = name.partition("+")
    return _with_company(Meant(resolved(question.strip(), names, where), resolved(answer.strip(), names, where)), names)


def _chats(names: Sequence[str]) -> list[Meant]:
    found = [Meant(name) for name in _usual(names, CHATS)]
    questions, answers = _usual(names, QUESTIONS), _usual(names, ANSWERS)
    return [*found, *([Meant(questions[0], answers[0])] if questions and answers else ())]


def _with_company(meant: Meant, names: Sequence[str]) -> Meant:
    extras = ["system", "history", "tools"]
    if meant.answer is not None and meant.text.casefold() == "instruction":
        extras.insert(0, "input")
    return Meant(meant.text, meant.answer, tuple(name for name in extras if name in names))


def _usual(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Those of ``names`` that are usual, in the order of ``usual``; an exact name before one in another case."""
    by_name = {name.strip().casefold(): name for name in reversed(names)} | {name: name for name in names}
    return [by_name[each] for each in usual if each in by_name]


def _no_field(
    name: str, names: Sequence[str], reading: Reading, path: Path, where: str, key: str = "text_field"
) -> DataError:
    shown = list(names)
    near = nearest(name, shown)
    example = near or next((each for each in shown if each), name)
    meant = f"did you mean {near!r}?" if near else f"its fields are: {_listed(shown)};"
    return DataError(
        f"a record has no field {name!r}",
        where=where,
        expected=f"{name!r}, another usual name (docs/data.md), or the name of yours",
        hint=f"{meant} {reading.advice(key, example, path)}",
    )


def _listed(names: object) -> str:
    shown = list(names)  # type: ignore[call-overload]
    return ", ".join(map(str, shown[:MOST_SHOWN])) + (", …" if len(shown) > MOST_SHOWN else "") or "none"
