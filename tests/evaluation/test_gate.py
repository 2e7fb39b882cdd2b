from dataclasses import replace
from typing import Any

import pytest

from glmquant.evaluation.gate import Verdict, judge, overall
from glmquant.evaluation.statistics import Interval, units_needed
from glmquant.evaluation.tasks import TaskResult
from glmquant.recipe.check_options import Limits
from tests.support.reports import language, report, task

PASS, FAIL, INCONCLUSIVE, NOT_JUDGED = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NOT_JUDGED


def ratio(low: float | None, estimate: float, high: float | None, units: int = 16) -> Interval:
    return Interval(estimate, low, high, units, None if low is None else 0.02)


@pytest.mark.parametrize(
    ("measured", "limit", "verdict"),
    [
        (ratio(1.01, 1.02, 1.03), 1.05, PASS),
        (ratio(1.01, 1.02, 1.05), 1.05, PASS),
        (ratio(1.06, 1.07, 1.08), 1.05, FAIL),
        (ratio(1.04, 1.06, 1.08), 1.05, INCONCLUSIVE),
        (ratio(None, 1.02, None, 1), 1.05, INCONCLUSIVE),
        (ratio(1.04, 1.06, 1.08), {"value": 1.05, "on": "estimate"}, FAIL),
        (ratio(1.02, 1.04, 1.08), {"value": 1.05, "on": "estimate"}, PASS),
        (ratio(None, 1.02, None, 1), {"value": 1.05, "on": "estimate"}, PASS),
    ],
)
def test_an_upper_limit(measured: Interval, limit: object, verdict: Verdict) -> None:
    (outcome,) = judge(
        Limits.model_validate({"perplexity_ratio": limit}), replace(language(), perplexity_ratio=measured), ()
    )
    assert (outcome.verdict, outcome.metric, outcome.subject) == (verdict, "perplexity_ratio", "text")
    assert outcome.measured == measured


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.96, 0.98, PASS), (0.90, 0.94, FAIL), (0.94, 0.96, INCONCLUSIVE)]
)
def test_a_lower_limit(low: float, high: float, verdict: Verdict) -> None:
    measured = Interval((low + high) / 2, low, high, 16, 0.02)
    (outcome,) = judge(
        Limits.model_validate({"top1_agreement": 0.95}), replace(language(), top1_agreement=measured), ()
    )
    assert (outcome.verdict, str(outcome.direction)) == (verdict, "at least")


def with_drop(low: float, estimate: float, high: float, units: int = 200) -> TaskResult:
    return replace(task(), accuracy_drop=Interval(estimate, low, high, units, 0.2))


def test_undecided_says_how_much_data_would_settle_it() -> None:
    (outcome,) = judge(Limits.model_validate({"accuracy_drop": 0.01}), None, [with_drop(-0.02, 0.0, 0.02)])
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.units_needed == units_needed(with_drop(-0.02, 0.0, 0.02).accuracy_drop, 0.01) == 5577
    assert "200 examples measured, about 5,577 needed" in outcome.reason


def test_with_data_enough_more_is_not_asked_for() -> None:
    (outcome,) = judge(Limits.model_validate({"accuracy_drop": 0.01}), None, [with_drop(0.0, 0.01, 0.02, 9000)])
    assert (outcome.verdict, outcome.units_needed) == (INCONCLUSIVE, None)
    assert "too close to the limit" in outcome.reason


def test_a_limit_of_no_loss_cannot_be_shown() -> None:
    (outcome,) = judge(Limits.model_validate({"accuracy_drop": 0}), None, [with_drop(-0.02, 0.0, 0.02)])
    assert (outcome.verdict, outcome.units_needed) == (INCONCLUSIVE, None)
    assert "no sample size" in outcome.reason


@pytest.mark.parametrize("drops", [(-0.4, -0.3, -0.2), (0.2, 0.3, 0.4)])
@pytest.mark.parametrize(
    ("what", "reason"), [({"near_chance": True}, "majority-class"), ({"majority": 1.0}, "the same label")]
)
def test_a_task_that_cannot_measure_quantization_is_not_judged(
    drops: tuple[float, float, float], what: dict[str, Any], reason: str
) -> None:
    outcomes = judge(Limits.model_validate({"accuracy_drop": 0.01}), None, [replace(with_drop(*drops), **what)])
    assert [outcome.verdict for outcome in outcomes] == [NOT_JUDGED]
    assert reason in outcomes[0].reason
    passed = replace(outcomes[0], verdict=PASS)
    assert overall([*outcomes, passed]) is NOT_JUDGED


def test_a_limit_holds_for_each_task() -> None:
    tasks = [replace(with_drop(-0.01, 0.0, 0.005), name="one"), replace(with_drop(0.02, 0.03, 0.04), name="two")]
    outcomes = judge(Limits.model_validate({"accuracy_drop": 0.01}), None, tasks)
    assert [(outcome.subject, outcome.verdict) for outcome in outcomes] == [("one", PASS), ("two", FAIL)]


def test_limits_come_in_the_recipes_order() -> None:
    limits = Limits.model_validate({"accuracy_drop": 1, "top1_agreement": 0, "mean_kl": 9, "perplexity_ratio": 9})
    metrics = [outcome.metric for outcome in judge(limits, language(), [task()])]
    assert metrics == ["perplexity_ratio", "mean_kl", "top1_agreement", "accuracy_drop"]


def test_what_was_not_measured_decides_nothing_by_itself() -> None:
    limits = Limits.model_validate({"accuracy_drop": 0.01, "perplexity_ratio": 9})
    outcomes = judge(limits, language(), ())
    assert [(outcome.verdict, outcome.subject) for outcome in outcomes] == [(PASS, "text"), (None, None)]
    assert outcomes[1].reason == "not measured: no task was given"
    assert overall(outcomes) is PASS
    assert overall(outcomes[1:]) is NOT_JUDGED


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ([], NOT_JUDGED),
        ([PASS, None], PASS),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE),
        ([INCONCLUSIVE, FAIL, PASS], FAIL),
        ([None, None], NOT_JUDGED),
        ([NOT_JUDGED, INCONCLUSIVE, PASS], NOT_JUDGED),
        ([NOT_JUDGED, FAIL], FAIL),
    ],
)
def test_all_limits_together(verdicts: list[Verdict | None], together: Verdict) -> None:
    outcome = report().limits[0]
    assert overall([replace(outcome, verdict=verdict) for verdict in verdicts]) is together


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({"perplexity": 20}, PASS),
        ({"perplexity": 2}, FAIL),
        ({"accuracy": 0.7}, PASS),
        ({"accuracy": 0.95}, FAIL),
        ({"accuracy": 0.85}, INCONCLUSIVE),
        ({"macro_f1": 0.75}, PASS),
        ({"macro_f1": 0.95}, FAIL),
        ({"macro_f1_drop": 0.05}, PASS),
        ({"macro_f1_drop": -0.05}, FAIL),
    ],
)
def test_absolute_limits_and_f1(limits: dict[str, float], verdict: Verdict) -> None:
    (outcome,) = judge(Limits.model_validate(limits), language(), [task()])
    assert outcome.verdict is verdict


def test_how_much_data_an_absolute_limit_takes_follows_from_the_baseline() -> None:
    (outcome,) = judge(Limits.model_validate({"accuracy": 0.82}), None, [task()])
    assert outcome.units_needed == units_needed(task().accuracy, 0.87 - 0.82)
