"""Which fields of a record are meant: the usual ones by themselves, others by name."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glmquant.core.near import nearest
from glmquant.data.reading import Reading
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
CLOSE: Final = 0.75
"""How like a usual name one must be to be suggested; names of data sets are short."""


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

    def company(self, name: str) -> str | None:
        """The field beside that is called ``name`` in any case."""
        return next((each for each in self.beside if _folded(each) == name), None)

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.text, *((self.answer,) if self.answer else ()), *self.beside)

    def __str__(self) -> str:
        return f"{self.text}+{self.answer}" if self.answer else self.text


def meant_fields(
    names: Sequence[str],
    reading: Reading,
    path: Path,
    place: str,
    *,
    chats: bool = True,
    empty: Collection[str] = (),
    known: Sequence[Meant] = (),
) -> Meant:
    """The fields to read of records that have the fields ``names``.

    Args:
        chats: conversations are read too; else text alone.
        empty: those of ``names`` that hold nothing: of two that would mean different things, the other is meant.
        known: what is read from records before, and decides where several may be meant.

    Raises:
        DataError: no usual field, or several that mean different things, or no field of the name that its owner gave.
    """
    where = f"{path}, {place}"
    if reading.text_field is not None:
        return _named(names, reading, path, where)
    found = _filled(_possible(names, chats), empty)
    if not found:
        raise _no_field(TEXTS, names, reading, path, where, known=[each.text for each in known])
    fitting = [each for each in known if each.text in names and (each.answer in names if each.answer else True)]
    if len(found) > 1 and fitting and all(each.text in _usual(names, TEXTS) for each in found):
        return fitting[0]
    if len(found) > 1:
        raise DataError(
            f"both {found[0].text!r} and {str(found[1])!r} may be meant",
            where=where,
            expected="one field to read",
            hint=" or ".join(reading.advice("text_field", str(each), path) for each in found[:2]),
        )
    unanswered = [each for each in known if each.answer and each.text == found[0].text and not found[0].answer]
    return unanswered[0] if unanswered else _with_company(found[0], names)


def text_columns(names: Sequence[str], reading: Reading, path: Path, *, chats: bool) -> set[str]:
    """Of all columns, those that :func:`meant_fields` may choose for one record or another."""
    meant = meant_fields(names, reading, path, "its columns", chats=chats, empty=names)
    possible = _possible(names, chats) if reading.text_field is None else []
    return {name for each in (meant, *(_with_company(one, names) for one in possible)) for name in each.columns}


def label_field(names: Sequence[str], reading: Reading, path: Path, place: str, known: Sequence[str] = ()) -> str:
    """The field that holds a record's label; see :func:`meant_fields`."""
    where = f"{path}, {place}"
    if reading.label_field is not None:
        return resolved(reading.label_field, names, where)
    if kept := [each for each in known if each in names]:
        return kept[0]
    found = _usual(names, LABELS)
    if len(found) > 1:
        raise DataError(
            f"both {found[0]!r} and {found[1]!r} may be meant",
            where=where,
            expected="one field to read labels from",
            hint=" or ".join(reading.advice("label_field", each, path) for each in found[:2]),
        )
    if not found:
        raise _no_field(LABELS, names, reading, path, where, "label_field", known)
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


def _possible(names: Sequence[str], chats: bool) -> list[Meant]:
    """All that a record with the fields ``names`` may mean."""
    found = [*(_chats(names) if chats else ()), *(Meant(name) for name in _usual(names, TEXTS))]
    if not found and chats:
        found = [Meant(name) for name in _usual(names, ("chosen", "rejected"))]
    return found or [Meant(name) for name in _usual(names, QUESTIONS)]


def _filled(found: list[Meant], empty: Collection[str]) -> list[Meant]:
    """Those that hold something, or the first where none does; of several texts, none is given up for another."""
    texts = [each for each in found if each.answer is None and _folded(each.text) in TEXTS]
    kept = texts if len(texts) > 1 else []
    filled = [each for each in found if each in kept or not {each.text, each.answer} & set(empty)]
    return filled or found[:1]


def _chats(names: Sequence[str]) -> list[Meant]:
    found = [Meant(name) for name in _usual(names, CHATS)]
    questions, answers = _usual(names, QUESTIONS), _usual(names, ANSWERS)
    return [*found, *([Meant(questions[0], answers[0])] if questions and answers else ())]


def _with_company(meant: Meant, names: Sequence[str]) -> Meant:
    extras = ["system", "history", "tools"]
    if meant.answer is not None and _folded(meant.text) == "instruction":
        extras.insert(0, "input")
    return Meant(meant.text, meant.answer, tuple(_usual(names, extras)))


def _folded(name: str) -> str:
    return name.strip().casefold()


def _usual(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Those of ``names`` that are usual, in the order of ``usual``; an exact name before one in another case."""
    by_name = {_folded(name): name for name in reversed(names)} | {name: name for name in names}
    return [by_name[each] for each in usual if each in by_name]


def _no_field(
    usual: Sequence[str],
    names: Sequence[str],
    reading: Reading,
    path: Path,
    where: str,
    key: str = "text_field",
    known: Sequence[str] = (),
) -> DataError:
    """The error for a record without any of the ``usual`` fields; ``known``: those that records before it have."""
    shown = [name for name in names if name]
    near = next((each for name in usual if (each := nearest(name, shown, CLOSE)) is not None), None)
    fields = f"its fields are: {_listed(shown)}"
    meant = f"did you mean {near!r}? " if near else ""
    if known:
        return DataError(
            f"a record has no field {known[0]!r}",
            where=where,
            expected="it in each record, or another usual name (docs/data.md)",
            hint=f"{meant}give it to this record too, or leave the record out; {fields}",
        )
    of_text = [] if key == "text_field" else _usual(names, TEXTS)[:1]
    free = [name for name in shown if name not in of_text]
    name = near or (free[0] if len(free) == 1 else "FIELD")
    advice = reading.advice(key, name, path) + (", with one of them for FIELD" if name == "FIELD" else "")
    return DataError(
        f"a record has no field {usual[0]!r}",
        where=where,
        expected=f"{usual[0]!r}, another usual name (docs/data.md), or the name of yours",
        hint=f"{fields}; {meant}{advice}" if shown else "give it one: none of its fields has a name",
    )


def _listed(names: object) -> str:
    shown = list(names)  # type: ignore[call-overload]
    return ", ".join(map(str, shown[:MOST_SHOWN])) + (", …" if len(shown) > MOST_SHOWN else "") or "none"
