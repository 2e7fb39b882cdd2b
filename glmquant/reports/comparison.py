"""Checks of several quantizations on the same texts and tasks, paired with the first one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from glmquant.core.units import size
from glmquant.errors import CheckError
from glmquant.evaluation.regression import regression
from glmquant.evaluation.results import AccuracyReport, Regression
from glmquant.inert import inert_line
from glmquant.reports.words import MARKS, points, rounded
from glmquant.reports.write import named_apart

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class ReportComparison:
    """What each later candidate loses against the first one.

    Attributes:
        reports: with names that tell the candidates apart.
        differences: of each report but the first, paired with it by window and by example.
        page: the HTML page with the table and the first report in full; None where none was written.
    """

    reports: tuple[AccuracyReport, ...]
    differences: tuple[Regression, ...]
    page: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: sizes, verdicts and differences."""
        sides = [
            {**asdict(report.setting.candidate), "verdict": report.verdict.value, "against_first": None}
            for report in self.reports
        ]
        for side, difference in zip(sides[1:], self.differences, strict=True):
            side["against_first"] = asdict(difference)
        return {"candidates": sides}

    def table(self) -> Rows:
        """A head, and a row for each candidate."""
        return comparison_table(self.reports, self.differences)

    def __str__(self) -> str:
        """The table in columns of plain text."""
        rows = [[inert_line(cell) for cell in row] for row in self.table()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        names = [report.setting.candidate.name for report in self.reports]
        return f"<ReportComparison of {', '.join(names[1:])} with {names[0]}>"

    def _repr_html_(self) -> str:
        """For a notebook: the table."""
        head, *rows = [[escape(inert_line(cell)) for cell in row] for row in self.table()]
        top = "".join(f"<th>{cell}</th>" for cell in head)
        lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
        return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def compare_reports(reports: Sequence[tuple[Path, AccuracyReport]]) -> ReportComparison:
    """Pairs every report with the first.

    Args:
        reports: with the path of each.

    Raises:
        CheckError: fewer than two, or other texts, windows, tasks, examples or baselines than the first has.
    """
    if len(reports) < 2:
        raise CheckError("there is nothing to compare", where="reports", expected="two reports or more")
    first, *others = named_apart(reports)
    differences = []
    for (path, _), other in zip(reports[1:], others, strict=True):
        try:
            _require_the_same_data(first, other)
            differences.append(regression(other, first))
        except CheckError as error:
            expected = f"what {reports[0][0]} was measured on"
            raise CheckError(error.what, where=path, expected=expected, hint=error.hint) from error
    return ReportComparison((first, *others), tuple(differences))


def comparison_table(reports: Sequence[AccuracyReport], differences: Sequence[Regression]) -> Rows:
    """A head, and a row for each candidate: verdict, size, and its differences from the first."""
    name = reports[0].setting.candidate.name
    tasks = [task.name for task in reports[0].tasks]
    head = ["candidate", "verdict", "size"]
    if reports[0].language is not None:
        head += [f"perplexity / {name}", "mean KL, more"]
    rows: Rows = [(*head, *(f"accuracy of {task}, less" for task in tasks))]
    for number, report in enumerate(reports):
        candidate = report.setting.candidate
        difference = _cells(differences[number - 1]) if number else [""] * (len(rows[0]) - 3)
        rows.append((candidate.name, MARKS[report.verdict], size(candidate.num_bytes), *difference))
    return rows


def _cells(difference: Regression) -> list[str]:
    cells = []
    if difference.perplexity_ratio is not None and difference.mean_kl_rise is not None:
        cells = [rounded(difference.perplexity_ratio), rounded(difference.mean_kl_rise)]
    return [*cells, *(points(task.accuracy_drop) for task in difference.tasks)]


def _require_the_same_data(first: AccuracyReport, other: AccuracyReport) -> None:
    """By hashes of what was read; windows, examples and baselines are compared as they are paired."""
    known = {text.name: text.sha256 for text in first.coverage}
    for text in other.coverage:
        if None not in (text.sha256, known.get(text.name)) and text.sha256 != known[text.name]:
            raise CheckError(f"{text.name} is another text there, or was read in other windows")
    tasks = {task.name: task.sha256 for task in first.tasks}
    for task in other.tasks:
        if None not in (task.sha256, tasks.get(task.name)) and task.sha256 != tasks[task.name]:
            raise CheckError(f"the reports have different examples of task {task.name}")
