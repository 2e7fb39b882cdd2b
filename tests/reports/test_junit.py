from dataclasses import replace
from xml.etree import ElementTree

from glmquant.recipe.check_options import Limits
from glmquant.reports.junit import to_junit
from tests.support.reports import report


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
    assert "limit: at most 0.001: the whole confidence interval is beyond the limit" in str(failure.get("message"))


def test_junit_of_names_that_xml_cannot_hold() -> None:
    limits = Limits.model_validate({"accuracy_drop": 0.01})
    outcome = replace(report(limits).limits[0], subject="a\0b\ufffe<&>")
    root = ElementTree.fromstring(to_junit(replace(report(limits), limits=(outcome,))))
    assert root[0][0].get("classname") == "a\\u0000b\N{REPLACEMENT CHARACTER}<&>"


def test_a_check_without_limits_is_one_skipped_test() -> None:
    suite = ElementTree.fromstring(to_junit(replace(report(), limits=())))[0]
    assert (suite.get("tests"), suite.get("skipped"), suite.get("failures")) == ("1", "1", "0")
    (case,) = suite
    assert "check.limits.perplexity_ratio=1.05" in str(case[0].get("message"))
