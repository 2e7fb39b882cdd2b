"""Read labeled texts: records with a text and a label, or a directory with a file or a directory for each label."""

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from glmquant.core.near import nearest
from glmquant.data.alike import refuse_alike
from glmquant.data.fields import text_value
from glmquant.data.labeled_directory import directory_texts
from glmquant.data.reading import USUAL, Reading
from glmquant.data.record import Record
from glmquant.data.records import kind_of
from glmquant.data.streams import open_data
from glmquant.data.text import formed_records, required_text
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
DECIMAL: Final = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}")


@dataclass(frozen=True)
class Example:
    """A text, its label, and its ``line``, record or row, as ``unit`` says; in a directory, also the ``file``."""

    text: str
    label: str
    line: int
    file: str = ""
    unit: str = "line"

    @property
    def place(self) -> str:
        """``line 3``, or in a directory ``pos.txt, line 3``."""
        return f"{self.file}{', ' if self.file else ''}{self.unit} {self.line}"


@dataclass(frozen=True)
class LabeledSet:
    """Labeled examples.

    Attributes:
        name: of the file or directory, without its parents.
        examples: in file order.
        labels: sorted, numbers by their value; each occurs among the examples, unless the labels were given.
    """

    name: str
    examples: tuple[Example, ...]
    labels: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Of labels and texts in order, whatever the file format."""
        digest = hashlib.sha256()
        for example in self.examples:
            for part in (example.label, example.text):
                data = part.encode()
                digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()

    def place(self, example: Example) -> str:
        """Where an example comes from, for messages: ``train.jsonl, line 3``."""
        return f"{self.name}{'/' if example.file else ', '}{example.place}"


def read_labeled(
    path: Path, limit: int | None = None, known: Mapping[str, str] | None = None, reading: Reading = USUAL
) -> LabeledSet:
    """The first ``limit`` examples of a file of records, or of a directory: each ``LABEL.txt`` has one text per line,
    blank lines skipped, or each ``LABEL/*.txt`` is one text.

    Args:
        known: the labels that may occur; empty or None for any.
        reading: what the file's owner says about it.

    Raises:
        DataError: a file that cannot be read, a record without text or label, a label that is not known, fewer
            examples than ``limit``, fewer than two labels, or labels that look alike and are not the same.
    """
    examples: list[Example] = []
    for example in _trimmed(_examples(path, reading), path):
        if known and example.label not in known:
            raise _unknown(example, known, path)
        examples.append(example)
        if len(examples) == limit:
            break
    if limit is not None and len(examples) < limit:
        raise DataError(f"{len(examples)} examples where {limit} are wanted", where=path, hint="lower the task's limit")
    places: dict[str, str] = {}
    for example in examples:
        places.setdefault(example.label, f"{path}{'/' if example.file else ', '}{example.place}")
    refuse_alike(places)
    labels = in_order(known or {example.label for example in examples})
    if len(labels) < 2:
        raise DataError(f"{len(labels)} different labels", where=path, expected="at least two")
    return LabeledSet(path.name, tuple(examples), labels)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order of their values where all are numbers, else by their characters."""
    found = sorted(labels)
    if all(WHOLE.fullmatch(label) for label in found):
        return tuple(sorted(found, key=int))
    if all(WHOLE.fullmatch(label) or DECIMAL.fullmatch(label) for label in found):
        log.warning("the labels are decimal numbers (%s, …); each is taken as a name", found[0])
        return tuple(sorted(found, key=float))
    return tuple(found)


def _unknown(example: Example, known: Mapping[str, str], path: Path) -> DataError:
    place = path / example.file if example.file else path
    near = nearest(example.label, known)
    return DataError(
        f"unknown label {example.label!r}",
        where=f"{place}, {example.unit} {example.line}",
        expected=f"one of: {', '.join(known)}",
        hint=f"did you mean {near!r}?" if near else None,
    )


def _trimmed(examples: Iterator[Example], path: Path) -> Iterator[Example]:
    """Examples with the blanks around their labels taken off, and a note."""
    count = 0
    for example in examples:
        label = example.label.strip()
        count += label != example.label
        yield example if label == example.label else replace(example, label=label)
    if count:
        log.info("%s: blanks around %d labels are taken off", path.name, count)


def _examples(path: Path, reading: Reading) -> Iterator[Example]:
    if path.is_dir():
        return (Example(*found) for found in directory_texts(path, reading))
    return _from_records(path, reading)


def _from_records(path: Path, reading: Reading) -> Iterator[Example]:
    data = open_data(path)
    kind = kind_of(data, reading)
    if kind == "text":
        raise DataError(
            f"{path.name} is plain text, which has no labels",
            where=path,
            expected="records with a text and a label, or a directory with a file or a directory for each label",
            hint='write {"text": "…", "label": "…"} in each line, or a line "text,label" above the rows of a table',
        )
    for record, form in formed_records(data, reading, kind, chats=False, labeled=True):
        text = required_text(record, form.meant.text, path)
        yield Example(text, _label(record, str(form.label), path), record.number, unit=record.unit)


def _label(record: Record, name: str, path: Path) -> str:
    value, where = record.fields.get(name), f"{path}, {record.place}"
    if isinstance(value, float):
        raise DataError(
            f"the label is the number {value!r}",
            where=where,
            expected="a whole number or a name",
            hint="write whole numbers; an empty cell elsewhere in the column makes pandas write decimals",
        )
    is_number = isinstance(value, int) and not isinstance(value, bool)
    label = str(value) if is_number else text_value(record, name, path) or ""
    if not label.strip():
        raise DataError("a record has no label", where=where, hint="fill it, or drop the record")
    return label
