"""Which fields are read of each record, where the records of a file need not all have the same."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glmquant.data.fields import Meant, label_field, meant_fields, text_columns
from glmquant.data.reading import Reading
from glmquant.data.record import Record, Tally

log = logging.getLogger("glmquant")

MOST_TOLD: Final = 5
EMPTY: Final[tuple[object, ...]] = (None, "", [])


@dataclass(frozen=True)
class Form:
    """The fields that are read of a record: those of its text or conversation, and its label's, if one is read."""

    meant: Meant
    label: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.meant.columns, *((self.label,) if self.label else ()))

    def __str__(self) -> str:
        return str(self.meant) + (f" and {self.label}" if self.label else "")


class Forms:
    """The form of each record of a file; where there are several, :meth:`tell` says so.

    Args:
        chats: conversations are read too; else text alone.
        labeled: a label is read beside.
    """

    def __init__(self, path: Path, reading: Reading, *, chats: bool, labeled: bool) -> None:
        self._path, self._reading, self._chats, self._labeled = path, reading, chats, labeled
        self._seen: dict[str, Tally] = {}
        self._written = Tally()
        self._known: list[Form] = []
        self._shape: object = None
        self._form: Form | None = None

    def columns(self, names: Sequence[str]) -> list[str]:
        """Of all columns of a table, those that may be read."""
        wanted = text_columns(names, self._reading, self._path, chats=self._chats)
        label = label_field(names, self._reading, self._path, "its columns") if self._labeled else None
        return [name for name in names if name in wanted or name == label]

    def of(self, record: Record) -> Form:
        """Raises DataError where a record has no fields that can be read; it names them and the record's place."""
        shape = [(name, value in EMPTY) for name, value in record.fields.items()]
        if shape != self._shape or self._form is None:
            self._shape, self._form = shape, self._chosen(record)
        self._seen.setdefault(str(self._form), Tally()).add(record.place)
        if record.written & {self._form.meant.text, self._form.meant.answer}:
            self._written.add(record.place)
        return self._form

    def tell(self) -> None:
        """Says which forms there were, if there were several, and what was no text before."""
        if self._written.count:
            log.info(
                "%s: numbers, dates or truth values of %d records are read as text, the first at %s",
                self._path.name,
                self._written.count,
                self._written.first,
            )
        if len(self._seen) > 1:
            told = [f"{seen.count} of {form}, the first at {seen.first}" for form, seen in self._seen.items()]
            more = "; …" if len(told) > MOST_TOLD else ""
            log.warning(
                "%s holds records of %d forms: %s%s", self._path.name, len(told), "; ".join(told[:MOST_TOLD]), more
            )

    def _chosen(self, record: Record) -> Form:
        names = list(record.fields)
        meant = meant_fields(
            names,
            self._reading,
            self._path,
            record.place,
            chats=self._chats,
            empty={name for name, value in record.fields.items() if value in EMPTY},
            known=[form.meant for form in self._known],
        )
        labels = [form.label for form in self._known if form.label]
        label = label_field(names, self._reading, self._path, record.place, labels) if self._labeled else None
        form = Form(meant, label)
        if str(form) not in self._seen:
            self._known.append(form)
        return form
