"""A record of a data file, and its place there."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """Fields by name; ``number`` counts from 1, in lines of the file, in records of it, or in rows of a sheet."""

    fields: dict[str, Any]
    number: int
    unit: str = "line"

    @property
    def place(self) -> str:
        return f"{self.unit} {self.number}"
