"""Read labeled texts: JSONL or CSV with a ``text`` and a ``label`` per record, or a directory with a file per label."""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from glmquant.data.text import is_jsonl, not_utf8, read_records, require_file, text_field
from glmquant.errors import DataError

COLUMNS = ("text", "label")


@dataclass(frozen=True)
class Example:
    """A text, its label, and its line; in a directory, also the name of its ``file``."""

    text: str
    label: str
    line: int
    file: str = ""


@dataclass(frozen=True)
class LabeledSet:
    """Labeled examples.

    Attributes:
        name: of the file or directory, without its parents.
        examples: in file order.
        labels: sorted; each occurs among the examples, unless the labels were given.
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
        return f"{self.name}{'/' if example.file else ''}{example.file}, line {example.line}"


def read_labeled(path: Path, limit: int | None = None, known: Mapping[str, str] | None = None) -> LabeledSet:
    """The first ``limit`` examples of a file, CSV with a header if its name ends in ``.csv``, else JSONL; or of a
    directory, where each ``LABEL.txt`` has one text per line; blank lines are skipped.

    Args:
        known: the labels that may occur; empty or None for any.

    Raises:
        DataError: a file that cannot be read, a record without text or label, a label that is not known, fewer
            examples than ``limit``, or fewer than two labels.
    """
    examples: list[Example] = []
    for example in _examples(path):
        if known and example.label not in known:
            raise DataError(
                f"unknown label {example.label!r}",
                where=f"{path / example.file}, line {example.line}",
                expected=f"one of: {', '.join(known)}",
            )
        examples.append(example)
        if len(examples) == limit:
            break
    if limit is not None and len(examples) < limit:
        raise DataError(f"{len(examples)} examples where {limit} are wanted", where=path, hint="lower the task's limit")
    labels = tuple(sorted(known or {example.label for example in examples}))
    if len(labels) < 2:
        raise DataError(f"{len(labels)} different labels", where=path, expected="at least two")
    return LabeledSet(path.name, tuple(examples), labels)


def _examples(path: Path) -> Iterator[Example]:
    if path.is_dir():
        return _from_directory(path)
    require_file(path)
    if path.suffix.lower() == ".csv":
        return _from_csv(path)
    if is_jsonl(path):
        return _from_jsonl(path)
    raise DataError(
        f"cannot tell the format of {path.name}",
        where=path,
        expected="a name in .jsonl or .csv, or a directory with a .txt file for each label",
    )


def _from_directory(path: Path) -> Iterator[Example]:
    for file in sorted(path.glob("*.txt")):
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise not_utf8(file) from None
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Example(line.strip(), file.stem, number, file.name)


def _from_jsonl(path: Path) -> Iterator[Example]:
    for line, record in read_records(path):
        yield Example(text_field(record, "text", path, line), _label(record, path, line), line)


def _label(record: dict[str, object], path: Path, line: int) -> str:
    value = record.get("label")
    is_number = isinstance(value, int) and not isinstance(value, bool)
    label = str(value) if is_number else text_field(record, "label", path, line)
    if not label.strip():
        raise DataError("a record has no label", where=f"{path}, line {line}", hint="fill it, or drop the record")
    return label


def _from_csv(path: Path) -> Iterator[Example]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"no column {missing[0]!r}", where=f"{path}, line 1", expected="a header with text and label"
                )
            for row in reader:
                record: dict[str, object] = {name: row[name] for name in COLUMNS if row[name] is not None}
                line = reader.line_num
                yield Example(text_field(record, "text", path, line), _label(record, path, line), line)
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", where=f"{path}, line {reader.line_num + 1}") from None
