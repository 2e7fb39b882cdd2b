"""The report as JUnit XML: one test case per limit, so that CI systems show each by name."""

import re
from xml.etree import ElementTree

from glmquant.evaluation.gate import LimitOutcome, Verdict
from glmquant.evaluation.results import AccuracyReport
from glmquant.inert import inert
from glmquant.reports.words import HOW_TO_SET_LIMITS, rounded

SUITE = "glmquant check"
# Characters that XML 1.0 (§2.2) excludes; controls are written out before.
NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: AccuracyReport) -> str:
    """A missed limit is a failure; one that decided nothing is skipped with its reason. A check without limits is one
    skipped test, since a suite of none would count as passed."""
    verdicts = [outcome.verdict for outcome in report.limits] or [None]
    counts = {
        "tests": len(verdicts),
        "failures": verdicts.count(Verdict.FAIL),
        "skipped": sum(verdict not in (Verdict.PASS, Verdict.FAIL) for verdict in verdicts),
        "errors": 0,
    }
    attributes = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": SUITE, **attributes})
    suite = ElementTree.SubElement(root, "testsuite", {"name": SUITE, **attributes})
    for outcome in report.limits:
        _add_case(suite, outcome)
    if not report.limits:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "limits", "name": "limits"})
        ElementTree.SubElement(case, "skipped", {"message": HOW_TO_SET_LIMITS})
    ElementTree.indent(root, " ")
    shown = NOT_XML.sub("\N{REPLACEMENT CHARACTER}", inert(ElementTree.tostring(root, encoding="unicode")))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{shown}\n'


def _add_case(suite: ElementTree.Element, outcome: LimitOutcome) -> None:
    case = ElementTree.SubElement(suite, "testcase", {"classname": outcome.subject or "limits", "name": outcome.metric})
    measured = "nothing" if outcome.measured is None else rounded(outcome.measured)
    text = f"measured {measured}, limit: {outcome.bound_in_words}: {outcome.reason}"
    if outcome.verdict is Verdict.FAIL:
        ElementTree.SubElement(case, "failure", {"message": text, "type": "limit"})
    elif outcome.verdict is not Verdict.PASS:
        ElementTree.SubElement(case, "skipped", {"message": text})
    else:
        ElementTree.SubElement(case, "system-out").text = text
