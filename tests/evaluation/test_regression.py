from dataclasses import replace

import numpy as np
import pytest

from glmquant.errors import CheckError
from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.regression import judge_regression, regression, with_regression
from glmquant.evaluation.results import AccuracyReport
from glmquant.evaluation.tasks import Truth, compare
from glmquant.recipe.check_options import Limits, RegressionLimits
from tests.support.reports import language, report

TRUTH = Truth("reviews", ("a", "b"), tuple(i % 2 for i in range(400)), ("t",) * 400)


def answered(wrong: int) -> np.ndarray:
    """Scores of a classifier that gets the first ``wrong`` examples wrong."""
    answers = np.array(TRUTH.answers)
    answers[:wrong] = 1 - answers[:wrong]
    scores: np.ndarray = np.eye(2)[answers]
    return scores


def with_quality(loss: float, wrong: int) -> AccuracyReport:
    """Every window costs ``loss`` nats a token more than the baseline."""
    base = language()
    windows = tuple(replace(w, candidate_nll=w.baseline_nll + loss, kl=loss) for w in base.windows)
    task = compare(TRUTH, answered(10), answered(wrong))
    return replace(report(Limits()), language=replace(base, windows=windows), texts=(), tasks=(task,))


def test_what_is_lost_since() -> None:
    measured = regression(with_quality(0.05, 50), with_quality(0.02, 20))
    assert measured.perplexity_ratio is not None
    assert measured.mean_kl_rise is not None
    assert measured.perplexity_ratio.estimate == pytest.approx(np.exp(0.03))
    assert measured.mean_kl_rise.estimate == pytest.approx(0.03)
    assert measured.tasks[0].accuracy_drop.estimate == pytest.approx(30 / 400)
    assert measured.tasks[0].macro_f1_drop.estimate == pytest.approx(30 / 400, abs=1e-3)


def test_no_change_passes_and_a_loss_fails() -> None:
    earlier = with_quality(0.02, 20)
    limits = RegressionLimits.model_validate({"accuracy_drop": 0.02, "mean_kl_rise": 0.01})
    same = with_regression(earlier, earlier, limits)
    assert [outcome.metric for outcome in same.limits] == [
        "against.perplexity_ratio",
        "against.mean_kl_rise",
        "against.accuracy_drop",
    ]
    assert same.verdict is Verdict.PASS
    worse = with_regression(with_quality(0.06, 60), earlier, limits)
    assert {outcome.verdict for outcome in worse.limits} == {Verdict.FAIL}


def test_a_limit_on_tasks_without_tasks_is_not_measured() -> None:
    bare = replace(with_quality(0.02, 20), tasks=())
    limits = RegressionLimits.model_validate({"perplexity_ratio": None, "macro_f1_drop": 0.1})
    (outcome,) = judge_regression(limits, regression(bare, bare))
    assert (outcome.verdict, outcome.reason) == (None, "not measured: no task was given")


def other_text(one: AccuracyReport) -> AccuracyReport:
    return replace(one, language=language(("other.txt",)))


def other_baseline(one: AccuracyReport) -> AccuracyReport:
    return replace(one, language=language(seed=5))


def other_examples(one: AccuracyReport) -> AccuracyReport:
    answers = ((1, 0, 0), *one.tasks[0].answers[1:])
    return replace(one, tasks=(replace(one.tasks[0], answers=answers),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_text, "different texts"),
        (other_baseline, "different baselines"),
        (other_examples, "different examples of task reviews"),
        (lambda one: replace(one, tasks=()), "different tasks"),
        (lambda one: replace(one, language=None), "different texts"),
    ],
)
def test_reports_that_cannot_be_paired(change, message: str) -> None:  # type: ignore[no-untyped-def]
    one = with_quality(0.02, 20)
    with pytest.raises(CheckError, match=message):
        regression(one, change(one))


def test_a_task_that_cannot_measure_quantization_is_not_judged_against_an_earlier_report_either() -> None:
    near = replace(report(), limits=(), tasks=tuple(replace(task, near_chance=True) for task in report().tasks))
    limits = RegressionLimits.model_validate({"perplexity_ratio": None, "accuracy_drop": 0.5})
    assert with_regression(near, report(), limits).verdict is Verdict.NOT_JUDGED
