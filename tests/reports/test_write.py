import json
from dataclasses import replace
from pathlib import Path

from glmquant.evaluation.gate import Verdict
from glmquant.reports.html import to_html
from glmquant.reports.junit import to_junit
from glmquant.reports.markdown import to_markdown
from glmquant.reports.write import named_apart, write_report
from tests.support.reports import report


def test_all_four_files_are_written(tmp_path: Path) -> None:
    other = replace(report(), verdict=Verdict.PASS)
    write_report(report(), tmp_path, [other])
    contents = {path.name: path.read_bytes().decode() for path in tmp_path.iterdir()}
    assert contents.pop("report.json") == report().to_json()
    assert contents == {
        "report.md": to_markdown(report()),
        "report.html": to_html(report(), [other]),
        "junit.xml": to_junit(report()),
    }
    assert json.loads((tmp_path / "report.json").read_bytes())["schema"] == 3
    assert not any(b"\r" in path.read_bytes() for path in tmp_path.iterdir())


def test_reports_of_one_name_are_named_by_their_directories() -> None:
    one, other = report(), replace(report(), verdict=Verdict.PASS)
    paths = [Path("runs/int4/report/report.json"), Path("runs/int8/report")]
    named = named_apart(list(zip(paths, (one, other), strict=True)))
    assert [each.setting.candidate.name for each in named] == ["int4", "int8"]
    renamed = [(path, each) for path, each in zip(paths, named, strict=True)]
    assert named_apart(renamed) == named
