import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmquant.core.files import write_text
from glmquant.errors import CheckError
from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.regression import with_regression
from glmquant.evaluation.results import SCHEMA, AccuracyReport
from glmquant.recipe.check_options import RegressionLimits
from glmquant.reports.read import read_report, report_from_dict, report_from_json
from tests.support.reports import report

WRITTEN_BY_0_1 = Path(__file__).parent / "schema_2.json"
WITHOUT_TEXT = replace(report(), language=None, texts=(), limits=(), verdict=Verdict.PASS)
COMPARED = with_regression(report(), report(), RegressionLimits())


@pytest.mark.parametrize("written", [report(), WITHOUT_TEXT, replace(report(), tasks=()), COMPARED])
def test_json_reads_back(written: AccuracyReport) -> None:
    assert report_from_json(written.to_json()) == written
    assert report_from_dict(written.to_dict()) == written


def test_a_report_that_release_0_1_wrote_is_read() -> None:
    """Never write this file anew."""
    text = WRITTEN_BY_0_1.read_text(encoding="utf-8")
    read = report_from_json(text)
    assert read.schema == SCHEMA == 3
    written = json.loads(text)
    added = {
        "answers": [],
        "coverage": [],
        "notes": [],
        "routing": None,
        "setting": written["setting"] | {"subject": None},
        "tasks": [task | {"sha256": None} for task in written["tasks"]],
    }
    assert json.loads(read.to_json()) == written | {"schema": 3} | added


def test_a_check_without_limits_that_release_0_1_let_pass_was_not_judged() -> None:
    values = json.loads(WRITTEN_BY_0_1.read_text(encoding="utf-8")) | {"limits": [], "verdict": "pass"}
    assert report_from_dict(values).verdict is Verdict.NOT_JUDGED


def test_fields_with_a_default_may_be_missing() -> None:
    values = json.loads(report().to_json())
    del values["regression"], values["setting"]["groups"], values["language"]["worst"]
    assert report_from_dict(values) == report()


def changed(**changes: Any) -> dict[str, Any]:
    return json.loads(report().to_json()) | changes  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(schema=1), r"schema 1\n.*\n  expected: schema 2 or 3\n.*run check again with this release"),
        (
            changed(schema=4),
            r"schema 4\n.*\n.*schema 2 or 3\n.*upgrade glmquant \(0\.1\.0 wrote it\), or run check again",
        ),
        ({"schema": 4, "setting": "?"}, r"upgrade glmquant, or run check again"),
        ([], "schema None"),
        ({"schema": True}, "schema True"),
        ({"schema": 2.0}, "schema 2.0"),
        (changed(extra=1), r"no field 'extra'[\s\S]*upgrade glmquant \(0\.1\.0 wrote it\)"),
        (changed(verdict="fine"), "damaged[\\s\\S]*verdict"),
        (changed(tasks=[{"name": "x"}]), "damaged[\\s\\S]*tasks.0"),
        ({"schema": 2}, "damaged[\\s\\S]*verdict"),
    ],
)
def test_what_this_release_cannot_read_is_refused(values: object, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        report_from_dict(values, "old/report.json")


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(CheckError, match=r"not JSON[\s\S]*old\.json"):
        report_from_json("{", "old.json")


def test_a_report_is_found_in_the_directory_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "run" / "report").mkdir(parents=True)
    write_text(tmp_path / "run" / "report" / "report.json", report().to_json())
    (tmp_path / "run" / "report" / "report.html").write_text("<html>")
    assert read_report(tmp_path / "run" / "report" / "report.html") == report()
    assert read_report(tmp_path / "run") == read_report(tmp_path / "run" / "report") == report()
