"""A record of a data file, and its place there."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """Fields by name; ``number`` counts from 1, in lines of the file, in records of it, or in rows of a sheet.

    ``written``: the fields of a table with types whose numbers, dates or truth values are written as text here.
    """

    fields: dict[str, Any]
    number: int
    unit: str = "line"
    written: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        return f"{self.unit} {self.number}"


@dataclass
class Tally:
    """How many records something is true of, and the place of the first."""

    count: int = 0
    first: str = ""

    def add(self, place: str) -> None:
        self.count += 1
        self.first = self.first or place
