"""Labeled texts in a directory: ``LABEL.txt`` with a text a line, or ``LABEL/*.txt`` with a text a file."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from glmquant.data.encodings import open_text, undecodable
from glmquant.data.reading import Reading
from glmquant.data.records import kind_of
from glmquant.data.streams import open_data
from glmquant.errors import DataError

log = logging.getLogger("glmquant")

TEXT: Final = ".txt"
CODE: Final = (".py", ".pyc", ".marshal", ".3")
"""Endings of the files of a Python package, which some sets of texts lie in."""
NO_LABELS: Final = frozenset(
    ("readme", "license", "licence", "notice", "copying", "authors", "changelog", "changes", "requirements", "todo")
)
"""Names of text files that describe, and are no label."""
LARGEST_TEXT: Final = 64 << 20

Found = tuple[str, str, int, str]
"""A text, its label, its line, and its file below the directory."""


def directory_texts(directory: Path, reading: Reading) -> Iterator[Found]:
    """The texts of a directory, label by label.

    Raises:
        DataError: a file or directory that is no label's, a label without text, or a file that cannot be read.
    """
    entries = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    code = [path for path in entries if path.suffix in CODE or path.name == "__pycache__"]
    if code:
        log.info("%s: not read: %s", directory.name, ", ".join(path.name for path in code[:10]))
    entries = [path for path in entries if path not in code]
    of_directories = any(path.is_dir() for path in entries)
    for path in entries:
        _refuse_stray(path, of_directories)
        found = False
        for each in _whole_texts(path, reading) if of_directories else _line_texts(path, reading):
            found = True
            yield each
        if not found:
            raise DataError("a label without a text", where=path, hint="add texts of it, or remove it")


def _refuse_stray(path: Path, of_directories: bool) -> None:
    """Raises DataError for what is no label's."""
    if of_directories and not path.is_dir():
        raise DataError(
            f"{path.name} lies beside the directories of the labels",
            where=path,
            expected="one directory for each label, and nothing else",
            hint="move it away",
        )
    if not of_directories and (path.suffix != TEXT or path.stem.casefold() in NO_LABELS):
        raise DataError(
            f"{path.name} is no label's file",
            where=path,
            expected="a LABEL.txt for each label, with one text a line, and nothing else",
            hint="move it away, or name it LABEL.txt if it is one",
        )


def _line_texts(path: Path, reading: Reading) -> Iterator[Found]:
    for number, line in enumerate(_text(path, reading).split("\n"), start=1):
        if line.strip():
            yield line.strip(), path.stem, number, path.name


def _whole_texts(directory: Path, reading: Reading) -> Iterator[Found]:
    for path in sorted(path for path in directory.iterdir() if not path.name.startswith(".")):
        if path.is_dir() or path.suffix != TEXT:
            raise DataError(
                f"{directory.name}/{path.name} is no text of the label {directory.name!r}",
                where=path,
                expected="files named *.txt, one text in each",
                hint="move it away",
            )
        text = _text(path, reading).strip()
        if not text:
            raise DataError("an empty text", where=path, hint="remove the file")
        yield text, directory.name, 1, f"{directory.name}/{path.name}"


def _text(path: Path, reading: Reading) -> str:
    if not path.is_file():  # a pipe or a device might never end
        raise DataError(f"{path.name} is not a regular file", where=path, expected="text of one label")
    data = open_data(path)
    if (kind := kind_of(data, reading)) != "text":
        raise DataError(f"{path.name} is {kind}, not plain text", where=path, hint="give the file itself as the data")
    try:
        with open_text(data, reading, newline=None) as file:
            text = file.read(LARGEST_TEXT)
    except UnicodeDecodeError:
        raise undecodable(data, reading) from None
    if len(text) == LARGEST_TEXT:
        raise DataError(f"more than {LARGEST_TEXT >> 20} million characters", where=path, hint="give JSON Lines")
    return text
