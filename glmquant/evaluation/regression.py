"""Two quantizations against each other: a new report against an earlier one on the same tokens and examples.

Shape suffixes: W windows, E examples.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glmquant.errors import CheckError, Parameter
from glmquant.evaluation.gate import (
    EXAMPLES,
    TEXT,
    WINDOWS,
    Direction,
    LimitOutcome,
    Subject,
    judge_interval,
    not_measured,
)
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.statistics import Interval, mean_interval, paired_difference, ratio_interval
from glmquant.evaluation.tasks import TaskResult, macro_f1_intervals, paired_counts
from glmquant.recipe.schema import Limit, RegressionLimits

if TYPE_CHECKING:
    from glmquant.evaluation.report import AccuracyReport

SAME_BASELINE = 1e-3
PREFIX = "against."


@dataclass(frozen=True)
class TaskRegression:
    """The earlier candidate's accuracy and macro F1 less the new one's."""

    name: str
    accuracy_drop: Interval
    macro_f1_drop: Interval


@dataclass(frozen=True)
class Regression:
    """What the new candidate loses against an earlier one.

    Attributes:
        name, num_bytes: the earlier candidate's.
        perplexity_ratio: the new perplexity over the earlier one, paired by window; None without text.
        mean_kl_rise: mean divergence from the baseline, new less earlier; None without text.
    """

    name: str
    num_bytes: int
    perplexity_ratio: Interval | None
    mean_kl_rise: Interval | None
    tasks: tuple[TaskRegression, ...]


def regression(new: "AccuracyReport", earlier: "AccuracyReport") -> Regression:
    """Pairs both reports by window and by example.

    Raises:
        CheckError: reports on other texts, windows, tasks or examples, or against another baseline.
    """
    ratio, rise = _language(new.language, earlier.language)
    by_name = {task.name: task for task in earlier.tasks}
    if set(by_name) != {task.name for task in new.tasks}:
        raise _not_comparable("the reports are about different tasks")
    return Regression(
        name=earlier.setting.candidate.name,
        num_bytes=earlier.setting.candidate.num_bytes,
        perplexity_ratio=ratio,
        mean_kl_rise=rise,
        tasks=tuple(_task(task, by_name[task.name]) for task in new.tasks),
    )


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


def _judge(metric: str, name: str, unit: str, limit: Limit, measured: Interval, margin: float) -> LimitOutcome:
    return judge_interval(Subject(PREFIX + metric, name, Direction.AT_MOST, unit), limit, measured, margin)


def _language(
    new: LanguageMetrics | None, earlier: LanguageMetrics | None
) -> tuple[Interval, Interval] | tuple[None, None]:
    if new is None and earlier is None:
        return None, None
    if new is None or earlier is None or [w.text for w in new.windows] != [w.text for w in earlier.windows]:
        raise _not_comparable("the reports are about different texts")
    sides = [
        np.array([(w.baseline_nll, w.candidate_nll, w.kl) for w in metrics.windows]).T for metrics in (new, earlier)
    ]
    if not np.allclose(sides[0][0], sides[1][0], rtol=SAME_BASELINE, atol=SAME_BASELINE):
        raise _not_comparable("the baseline says other things about the text in the two reports")
    return ratio_interval(sides[0][1] - sides[1][1]), mean_interval(sides[0][2] - sides[1][2])


def _task(new: TaskResult, earlier: TaskResult) -> TaskRegression:
    new_E3, earlier_E3 = np.array(new.answers), np.array(earlier.answers)
    if new.labels != earlier.labels or not np.array_equal(new_E3[:, 0], earlier_E3[:, 0]):
        raise _not_comparable(f"the reports are about different examples of {new.name}")
    truth_E, now_E, before_E = new_E3[:, 0], new_E3[:, 2], earlier_E3[:, 2]
    _, drop = macro_f1_intervals(truth_E, before_E, now_E, len(new.labels))
    counts = paired_counts(before_E == truth_E, now_E == truth_E)
    return TaskRegression(new.name, paired_difference(counts), drop)


def _not_comparable(what: str) -> CheckError:
    return CheckError(
        what,
        where=Parameter("against"),
        expected="a report of the same baseline, check.text, check.num_tokens, check.seq_len and check.tasks",
        hint="check both models with the same recipe and data",
    )
