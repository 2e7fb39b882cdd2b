"""Rows of tab-separated text, where a quote may be CSV's or a mere character: what the rows hold decides."""

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from glmquant.data.record import Tally

QUOTED: Final = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)


class TabRows:
    """Rows that hold anything, as wide as the first; ``line`` is the last line read.

    A cell in well-formed quotes is unquoted. Where quotes do not pair within a line of as many cells as the first, they
    are characters, unless they pair over the lines below and those are no rows by themselves.

    Attributes:
        literal: rows with quotes that are characters.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self._waiting = lines, deque[str]()
        self.line, self.literal = 0, Tally()

    def __iter__(self) -> Iterator[list[str]]:
        """Raises csv.Error for quotes that make no row in either way."""
        width = 0
        while (line := self._take()) is not None:
            if bare := line.rstrip("\r\n"):
                row = self._row(line, bare.split("\t"), width)
                width = width or len(row)
                yield row

    def _row(self, line: str, cells: list[str], width: int) -> list[str]:
        if all(QUOTED.fullmatch(cell) for cell in cells if cell.startswith('"')):
            return [cell[1:-1].replace('""', '"') if cell.startswith('"') else cell for cell in cells]
        fits = len(cells) == width
        place, row = f"line {self.line}", None if fits and self._is_followed_by_a_row(width) else self._quoted(line)
        if row is not None and (not fits or len(row) == width):
            return row
        if not fits:
            raise csv.Error("quotes that do not pair")
        self.literal.add(place)
        return cells

    def _is_followed_by_a_row(self, width: int) -> bool:
        """Whether the next line that holds anything has ``width`` cells, or there is none."""
        blank: list[str] = []
        while (line := self._take()) is not None:
            blank.append(line)
            if line.strip("\r\n"):
                break
        self._give_back(blank)
        return line is None or line.count("\t") == width - 1

    def _quoted(self, line: str) -> list[str] | None:
        """The row that starts in ``line`` as CSV reads it, over as many lines as it takes."""
        taken: list[str] = []

        def lines() -> Iterator[str]:
            yield line
            while (more := self._take()) is not None:
                taken.append(more)
                yield more

        try:
            return next(csv.reader(lines(), delimiter="\t", strict=True))
        except csv.Error:
            self._give_back(taken)
            return None

    def _take(self) -> str | None:
        line = self._waiting.popleft() if self._waiting else next(self._lines, None)
        self.line += line is not None
        return line

    def _give_back(self, lines: Sequence[str]) -> None:
        self._waiting.extendleft(reversed(lines))
        self.line -= len(lines)
