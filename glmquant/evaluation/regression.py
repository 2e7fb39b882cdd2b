"""Regression against an earlier report: paired differences on the same windows and examples.

Shape suffixes: I examples.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from glmquant.errors import CheckError, Parameter
from glmquant.evaluation.gate import (
    EXAMPLES,
    TEXT,
    WINDOWS,
    Direction,
    LimitOutcome,
    Subject,
    Verdict,
    judge_interval,
    not_measured,
    overall,
)
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.results import AccuracyReport, Regression, TaskRegression
from glmquant.evaluation.statistics import Interval, mean_interval, paired_difference, ratio_interval
from glmquant.evaluation.tasks import TaskResult, Truth, macro_f1_intervals, paired_counts
from glmquant.recipe.check_options import Limit, RegressionLimits

SAME_BASELINE = 1e-3
PREFIX = "against."


def with_regression(report: AccuracyReport, earlier: AccuracyReport, limits: RegressionLimits) -> AccuracyReport:
    """The report with the comparison against an earlier one, and a verdict on both.

    Raises:
        CheckError: reports that cannot be paired.
    """
    measured = regression(report, earlier)
    reasons = {task.name: task.why_not_judged for task in report.tasks}
    outcomes = (*report.limits, *(_if_it_measures(each, reasons) for each in judge_regression(limits, measured)))
    return replace(report, limits=outcomes, verdict=overall(outcomes), regression=measured)


def regression(new: AccuracyReport, earlier: AccuracyReport) -> Regression:
    """What ``new`` loses against ``earlier``, paired by window and by example.

    Raises:
        CheckError: different texts, windows, tasks, examples or baselines.
    """
    ratio, rise = _language(new.language, earlier.language)
    by_name = {task.name: task for task in earlier.tasks}
    if set(by_name) != {task.name for task in new.tasks}:
        raise _not_comparable("the reports have different tasks")
    return Regression(
        name=earlier.setting.candidate.name,
        num_bytes=earlier.setting.candidate.num_bytes,
        perplexity_ratio=ratio,
        mean_kl_rise=rise,
        tasks=tuple(_task(task, by_name[task.name]) for task in new.tasks),
    )


def require_pairable(
    earlier: AccuracyReport, windows: Sequence[str], digests: Sequence[str], truths: Sequence[Truth]
) -> None:
    """Refuses an earlier report that was measured on other data, before anything is measured.

    Args:
        windows: the name of each window's text, in order.
        digests: sha256 of the windows of each text; an earlier release's report has none.
        truths: of the tasks.

    Raises:
        CheckError: other texts, numbers of windows, tasks, labels or examples.
    """
    before = [] if earlier.language is None else [window.text for window in earlier.language.windows]
    if before != list(windows):
        raise _not_comparable(f"the reports have different texts: {_counted(before)}, and now {_counted(windows)}")
    for text, now in zip(earlier.coverage, digests, strict=False):
        if text.sha256 not in (None, now):
            raise _not_comparable(f"{text.name} is another text now, or was read in other windows")
    by_name = {task.name: task for task in earlier.tasks}
    if set(by_name) != {truth.name for truth in truths}:
        raise _not_comparable("the reports have different tasks")
    for truth in truths:
        task = by_name[truth.name]
        answers = [answer for answer, _, _ in task.answers]
        same = task.labels == truth.labels and answers == list(truth.answers)
        if not same or task.sha256 not in (None, truth.sha256):
            raise _not_comparable(f"the reports have different examples of task {truth.name}")


def _counted(windows: Sequence[str]) -> str:
    counts = Counter(windows)
    return ", ".join(f"{count} windows of {name}" for name, count in counts.items()) or "no text"


def judge_regression(limits: RegressionLimits, measured: Regression) -> tuple[LimitOutcome, ...]:
    """Every limit's outcome; their keys start with ``against.``"""
    return tuple(_outcomes(limits, measured))


def _outcomes(limits: RegressionLimits, measured: Regression) -> Iterator[LimitOutcome]:
    texts = (
        ("perplexity_ratio", limits.perplexity_ratio, measured.perplexity_ratio, math.log),
        ("mean_kl_rise", limits.mean_kl_rise, measured.mean_kl_rise, float),
    )
    for name, limit, interval, scale in texts:
        if limit is not None and interval is not None:
            yield _judge(name, TEXT, WINDOWS, limit, interval, abs(scale(limit.value)))
        elif limit is not None:
            yield not_measured(PREFIX + name, limit.value, limit.on, Direction.AT_MOST, WINDOWS)
    for name in ("accuracy_drop", "macro_f1_drop"):
        limit = getattr(limits, name)
        if limit is None:
            continue
        if not measured.tasks:
            yield not_measured(PREFIX + name, limit.value, limit.on, Direction.AT_MOST, EXAMPLES)
        for task in measured.tasks:
            yield _judge(name, task.name, EXAMPLES, limit, getattr(task, name), abs(limit.value))


def _if_it_measures(outcome: LimitOutcome, reasons: Mapping[str, str | None]) -> LimitOutcome:
    """Not judged where the task cannot measure quantization, whatever the earlier model did on it."""
    reason = reasons.get(outcome.subject or "")
    return outcome if reason is None else replace(outcome, verdict=Verdict.NOT_JUDGED, reason=reason, units_needed=None)


def _judge(metric: str, name: str, unit: str, limit: Limit, measured: Interval, margin: float) -> LimitOutcome:
    return judge_interval(Subject(PREFIX + metric, name, Direction.AT_MOST, unit), limit, measured, margin)


def _language(
    new: LanguageMetrics | None, earlier: LanguageMetrics | None
) -> tuple[Interval, Interval] | tuple[None, None]:
    if new is None and earlier is None:
        return None, None
    if new is None or earlier is None or [w.text for w in new.windows] != [w.text for w in earlier.windows]:
        raise _not_comparable("the reports have different texts")
    sides = [
        np.array([(w.baseline_nll, w.candidate_nll, w.kl) for w in metrics.windows]).T for metrics in (new, earlier)
    ]
    if not np.allclose(sides[0][0], sides[1][0], rtol=SAME_BASELINE, atol=SAME_BASELINE):
        raise _not_comparable("the reports were measured against different baselines")
    return ratio_interval(sides[0][1] - sides[1][1]), mean_interval(sides[0][2] - sides[1][2])


def _task(new: TaskResult, earlier: TaskResult) -> TaskRegression:
    new_I3, earlier_I3 = np.array(new.answers), np.array(earlier.answers)
    if new.labels != earlier.labels or not np.array_equal(new_I3[:, 0], earlier_I3[:, 0]):
        raise _not_comparable(f"the reports have different examples of task {new.name}")
    truth_I, now_I, before_I = new_I3[:, 0], new_I3[:, 2], earlier_I3[:, 2]
    _, drop = macro_f1_intervals(truth_I, before_I, now_I, len(new.labels))
    counts = paired_counts(before_I == truth_I, now_I == truth_I)
    return TaskRegression(new.name, paired_difference(counts), drop)


def _not_comparable(what: str) -> CheckError:
    return CheckError(
        what,
        where=Parameter("against"),
        expected="a report with the same baseline, check.text, check.num_tokens, check.seq_len and check.tasks",
        hint="check both models with the same recipe, baseline and data",
    )
