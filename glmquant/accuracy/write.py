"""A report's files."""

from collections.abc import Sequence
from pathlib import Path

from glmquant.accuracy.html import to_html
from glmquant.accuracy.junit import to_junit
from glmquant.accuracy.markdown import to_markdown
from glmquant.accuracy.report import AccuracyReport


def write_report(report: AccuracyReport, directory: Path, others: Sequence[AccuracyReport] = ()) -> None:
    """Writes ``report.json``, ``report.md``, ``report.html`` and ``junit.xml`` into an existing directory."""
    contents = {
        "report.json": report.to_json(),
        "report.md": to_markdown(report),
        "report.html": to_html(report, others),
        "junit.xml": to_junit(report),
    }
    for name, content in contents.items():
        (directory / name).write_text(content, encoding="utf-8")
