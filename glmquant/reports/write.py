"""Writing a report's files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from glmquant.core.files import write_text
from glmquant.errors import OutputError
from glmquant.evaluation.results import AccuracyReport
from glmquant.reports.html import to_html
from glmquant.reports.junit import to_junit
from glmquant.reports.markdown import to_markdown
from glmquant.store.circumstances import Circumstances


def write_report(
    report: AccuracyReport,
    directory: Path,
    others: Sequence[AccuracyReport] = (),
    made: Circumstances | None = None,
) -> None:
    """Write ``report.json``, ``report.md``, ``report.html`` and ``junit.xml`` into an existing directory; the page
    alone shows when, where and how fast it was ``made``."""
    contents = {
        "report.json": report.to_json(),
        "report.md": to_markdown(report),
        "report.html": to_html(report, others, made=made),
        "junit.xml": to_junit(report),
    }
    for name, content in contents.items():
        write_text(directory / name, content)


def write_page(
    reports: Sequence[AccuracyReport],
    out: Path,
    table: Sequence[Sequence[str]] = (),
    made: Circumstances | None = None,
) -> None:
    """Write the HTML page of the first report, with the others drawn beside it, a table of them where there is one, and
    when, where and how fast the first was ``made``.

    Raises:
        OutputError: ``out`` cannot be written.
    """
    try:
        write_text(out, to_html(reports[0], reports[1:], table, made))
    except OSError as error:
        raise OutputError(f"cannot write there: {error.strerror}", where=out, hint="choose another file") from error


def named_apart(reports: Sequence[tuple[Path, AccuracyReport]]) -> list[AccuracyReport]:
    """The reports; where names of candidates repeat, each is renamed to the last part of its path that is unique."""
    names = [report.setting.candidate.name for _, report in reports]
    if len(set(names)) == len(names):
        return [report for _, report in reports]
    parts = [(path.parent if path.suffix else path).resolve().parts for path, _ in reports]
    depth = max(map(len, parts))
    columns = [[path[-1 - i] if i < len(path) else "" for path in parts] for i in range(depth)]
    labels = next((column for column in columns if len(set(column)) == len(column)), names)
    return [_renamed(report, label) for (_, report), label in zip(reports, labels, strict=True)]


def _renamed(report: AccuracyReport, name: str) -> AccuracyReport:
    candidate = replace(report.setting.candidate, name=name)
    return replace(report, setting=replace(report.setting, candidate=candidate))
