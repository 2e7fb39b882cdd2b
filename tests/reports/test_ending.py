from dataclasses import replace

import pytest

from glmquant.evaluation.gate import Verdict, judge
from glmquant.evaluation.statistics import Interval
from glmquant.recipe.check_options import Limits
from glmquant.reports.ending import in_short, tokens_to_decide
from glmquant.reports.words import percent, points, rounded
from tests.support.reports import report


def test_the_end_has_a_line_for_the_verdict_for_each_limit_and_for_each_place() -> None:
    met = replace(report().limits[0], subject="two\nlines")
    missed = report().limits[1]
    ended = in_short(replace(report(), limits=(met, missed)), [("bundle", "out/onnx"), ("next", "glmquant chat")])
    assert ended.splitlines() == [
        "❌ fail: onnx, 3.4 GB, 27.2% of chatglm2-6b",
        "✅ pass  perplexity_ratio of two lines  1.020 (1.016 to 1.024)     at most 1.5",
        "❌ fail  mean_kl of text                0.0162 (0.0149 to 0.0176)  at most 0.001",
        "    the whole confidence interval is beyond the limit",
        "bundle  out/onnx",
        "next    glmquant chat",
    ]


def test_a_limit_without_anything_to_measure_it_on_takes_one_line() -> None:
    limits = judge(Limits.model_validate({"accuracy_drop": 0.01}), report().language, [])
    ended = in_short(replace(report(), limits=limits)).splitlines()
    assert ended[1:] == ["➖ not measured  accuracy_drop  no task was given"]


def test_without_limits_the_end_says_how_to_set_one() -> None:
    ended = in_short(replace(report(), limits=(), verdict=Verdict.NOT_JUDGED))
    assert "check.limits.perplexity_ratio=1.05" in ended.splitlines()[1]


@pytest.mark.parametrize(
    ("estimate", "low", "high", "shown"),
    [
        (1.00019, 0.99931, 1.00101, "1.0002 (0.9993 to 1.0010)"),
        (0.0236, 0.0221, 0.0251, "0.0236 (0.0221 to 0.0251)"),
        (0.5, 0.04, 0.96, "0.5 (0.0 to 1.0)"),
        (-1e-9, -0.01447, 0.01447, "0.000 (-0.014 to 0.014)"),
        (1696.6, 1200.2, 2200.1, "1697 (1200 to 2200)"),
        (1.0, 1.0, 1.0, "1 (1 to 1)"),
        (1.10517091807, 1.10517091807 - 1e-15, 1.10517091807 + 1e-15, "1.105 (1.105 to 1.105)"),
        (1.23456, None, None, "1.235"),
    ],
)
def test_a_number_has_the_decimals_that_its_interval_allows(
    estimate: float, low: float | None, high: float | None, shown: str
) -> None:
    assert rounded(Interval(estimate, low, high, 16, None)) == shown


def test_shares_and_their_differences_are_rounded_alike() -> None:
    assert percent(Interval(0.9677, 0.9524, 0.9831, 16, 0.1)) == "96.8 (95.2 to 98.3) %"
    assert points(Interval(0.0, -0.00401, 0.00399, 16, 0.1)) == "0.0 (-0.4 to 0.4) percentage points"


def test_how_much_text_would_decide_is_reckoned_from_its_windows() -> None:
    """The report's windows are of 32 tokens, 31 of them predicted, from two texts."""
    undecided = replace(report().limits[0], verdict=Verdict.INCONCLUSIVE, units_needed=29)
    assert tokens_to_decide(replace(report(), limits=(undecided,))) == 15 * 32
    assert tokens_to_decide(report()) is None  # examples are wanting
    assert tokens_to_decide(replace(report(), limits=(replace(undecided, units_needed=None),))) is None
    assert tokens_to_decide(replace(report(), limits=report().limits[:2])) is None
