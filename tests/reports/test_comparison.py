"""Several checks beside each other: paired differences, and what cannot be paired."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmquant.errors import CheckError
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.results import AccuracyReport, TextCoverage
from glmquant.reports.comparison import compare_reports
from glmquant.reports.html import to_html
from tests.support.reports import language, report

A, B = Path("a/report"), Path("b/report")


def named(name: str, metrics: LanguageMetrics | None = None, **changes: Any) -> AccuracyReport:
    honest = report()
    candidate = replace(honest.setting.candidate, name=name)
    return replace(
        honest,
        setting=replace(honest.setting, candidate=candidate),
        language=metrics or honest.language,
        **changes,
    )


def test_each_is_paired_with_the_first() -> None:
    worse = report().language
    assert worse is not None
    windows = tuple(replace(window, candidate_nll=window.candidate_nll + 0.1) for window in worse.windows)
    comparison = compare_reports([(A, named("rtn")), (B, named("gptq", replace(worse, windows=windows)))])
    head, first, second = comparison.table()
    assert head == (
        "candidate", "verdict", "size", "perplexity / rtn", "mean KL, more", "accuracy of reviews, less"
    )  # fmt: skip
    assert first == ("rtn", "❌ fail", "3.4 GB", "", "", "")
    assert second[:1] == ("gptq",)
    assert second[3] == "1.105 (1.105 to 1.105)"  # exp(0.1), the same in every window
    lines = str(comparison).splitlines()
    assert len(lines) == 3
    assert lines[1].split("  ")[0] == "rtn"
    assert comparison.to_dict()["candidates"][0]["against_first"] is None


def test_a_page_shows_the_table() -> None:
    comparison = compare_reports([(A, named("rtn")), (B, named("<gptq>"))])
    page = to_html(comparison.reports[0], comparison.reports[1:], comparison.table())
    assert "<h2>Compared</h2>" in page
    assert ">&lt;gptq&gt;</td>" in page
    assert "<h2>Compared</h2>" not in to_html(comparison.reports[0], comparison.reports[1:])


def coverage(sha256: str) -> tuple[TextCoverage, ...]:
    return (TextCoverage("en.txt", 256, 1000, False, sha256),)


def test_what_was_measured_on_other_data_is_refused() -> None:
    first = named("rtn", coverage=coverage("a" * 64))
    task = report().tasks[0]
    mixed = {
        "different texts": named("x", language(("held_out.txt",))),
        "another text": named("x", coverage=coverage("b" * 64)),
        "different tasks": named("x", tasks=()),
        "different examples": named("x", tasks=(replace(task, answers=((1, 0, 1), (0, 1, 1)) * 100),)),
    }
    for words, other in mixed.items():
        with pytest.raises(CheckError, match=words) as raised:
            compare_reports([(A, first), (B, other)])
        assert raised.value.where == B
    with pytest.raises(CheckError, match="nothing to compare"):
        compare_reports([(A, first)])
