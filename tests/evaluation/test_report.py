import json
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from glmquant.errors import CheckError
from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.report import AccuracyReport, report_from_dict, report_from_json
from glmquant.recipe.schema import Limits
from glmquant.report.junit import to_junit
from glmquant.report.markdown import size, to_markdown
from tests.support.reports import report

WITHOUT_TEXT = replace(report(), language=None, texts=(), limits=(), verdict=Verdict.PASS)


@pytest.mark.parametrize("written", [report(), WITHOUT_TEXT, replace(report(), tasks=())])
def test_json_reads_back(written: AccuracyReport) -> None:
    assert report_from_json(written.to_json()) == written
    assert report_from_dict(written.to_dict()) == written
    assert json.loads(written.to_json())["schema"] == 2


def changed(**changes: Any) -> dict[str, Any]:
    return json.loads(report().to_json()) | changes  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed(schema=1), "schema 1[\\s\\S]*schema 2"),
        ([], "schema None"),
        (changed(extra=1), "no field 'extra'"),
        (changed(verdict="fine"), "damaged[\\s\\S]*verdict"),
        (changed(tasks=[{"name": "x"}]), "damaged[\\s\\S]*tasks.0"),
        ({"schema": 2}, "damaged[\\s\\S]*verdict"),
    ],
)
def test_what_is_no_report_is_refused(values: object, message: str) -> None:
    with pytest.raises(CheckError, match=message):
        report_from_dict(values)


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(CheckError, match=r"not JSON[\s\S]*old\.json"):
        report_from_json("{", "old.json")


def test_markdown_says_everything_that_matters() -> None:
    text = to_markdown(report())
    for words in (
        "# Accuracy check: ❌ fail",
        "onnx (3.4 GB), 27.2% of the baseline",
        "chatglm2-6b (12.5 GB)",
        "Accuracy level of the quantized products: 4",
        "onnxruntime 1.32.0",
        "| perplexity\\_ratio of text |",
        "at most 1.5 | ✅ pass |",
        "❌ fail |",
        "❔ inconclusive | the interval spans the limit: 200 examples measured, about 5,577 would settle it |",
        "496 tokens in 16 windows of: en.txt, zh.txt",
        "| zh.txt |",
        "## Task: reviews",
        "2.00 (-1.00 to 5.00) %",
        "pos\\|好",
    ):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_markdown_without_limits_or_text() -> None:
    text = to_markdown(WITHOUT_TEXT)
    assert "No limits are set." in text
    assert "## Text" not in text


def test_names_cannot_break_the_page() -> None:
    name = "<script>alert(1)</script> | *x*\n# head"
    text = to_markdown(replace(report(), tasks=(replace(report().tasks[0], name=name),)))
    assert "## Task: \\<script\\>alert(1)\\</script\\> \\| \\*x\\* \\# head" in text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(999, "999 bytes"), (1_234_000, "1.23 MB"), (12_487_168_064, "12.5 GB")]
)
def test_sizes(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text


def test_junit_has_a_case_for_each_limit() -> None:
    root = ElementTree.fromstring(to_junit(report()))
    (suite,) = root
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    cases = [(case.get("classname"), case.get("name"), [child.tag for child in case]) for case in suite]
    assert cases == [
        ("text", "perplexity_ratio", ["system-out"]),
        ("text", "mean_kl", ["failure"]),
        ("reviews", "accuracy_drop", ["skipped"]),
    ]
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert "limit: at most 0.001: the whole interval is beyond the limit" in str(failure.get("message"))


def test_junit_of_names_that_xml_cannot_hold() -> None:
    limits = Limits.model_validate({"accuracy_drop": 0.01})
    outcome = replace(report(limits).limits[0], subject="a\0b<&>")
    root = ElementTree.fromstring(to_junit(replace(report(limits), limits=(outcome,))))
    assert root[0][0].get("classname") == "a\N{REPLACEMENT CHARACTER}b<&>"


def test_junit_without_limits() -> None:
    assert ElementTree.fromstring(to_junit(WITHOUT_TEXT))[0].get("tests") == "0"
