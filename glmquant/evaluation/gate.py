"""The accuracy gate: limits held against confidence intervals.

A limit on a loss is a non-inferiority margin: it passes where the whole interval is within it, fails where the whole
interval is beyond it, and is inconclusive otherwise. Where nothing was held against a limit, nothing is judged.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.routing_metrics import RoutingMetrics
from glmquant.evaluation.statistics import Interval, units_needed
from glmquant.evaluation.tasks import TaskResult
from glmquant.recipe.check_options import Limit, Limits

TEXT = "text"
WINDOWS, EXAMPLES = "windows", "examples"
ROUTING = "windows routed"


class Verdict(StrEnum):
    """The outcome of one limit, or of all together."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NOT_JUDGED = "not judged"


class Direction(StrEnum):
    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True)
class LimitOutcome:
    """One limit held against what was measured.

    Attributes:
        metric: the limit's key in the recipe.
        subject: ``text``, or the task's name; None where nothing was measured that the limit is about.
        measured: None where nothing was.
        verdict: None where nothing was measured: such a limit decides nothing.
        reason: why, in words.
        units_needed: sample size that decides it with 95 % power; None unless inconclusive for too small a sample.
        unit: ``windows`` or ``examples``.
    """

    metric: str
    subject: str | None
    direction: Direction
    bound: float
    on: Literal["interval", "estimate"]
    measured: Interval | None
    verdict: Verdict | None
    reason: str
    units_needed: int | None = None
    unit: str | None = None

    @property
    def name(self) -> str:
        """``perplexity_ratio of text``."""
        return self.metric if self.subject is None else f"{self.metric} of {self.subject}"

    @property
    def bound_in_words(self) -> str:
        """``at most 1.02``."""
        return f"{self.direction} {self.bound:g}"


@dataclass(frozen=True)
class Subject:
    """What a limit applies to: its key, ``text`` or a task's name, and the unit of the sample."""

    metric: str
    name: str
    direction: Direction
    unit: str

    def outcome(
        self, limit: Limit, measured: Interval, verdict: Verdict, reason: str, needed: int | None = None
    ) -> LimitOutcome:
        return LimitOutcome(
            self.metric,
            self.name,
            self.direction,
            limit.value,
            limit.on,
            measured,
            verdict,
            reason,
            needed,
            self.unit,
        )


@dataclass(frozen=True)
class _Metric:
    """How a limit's key is judged.

    Attributes:
        of: its interval, from what was measured.
        no_loss: its value where both models are equal.
        logarithmic: the interval's spread is on a logarithmic scale.
    """

    direction: Direction
    unit: str
    of: Callable[[Any], Interval]
    no_loss: Callable[[Any], float]
    logarithmic: bool = False

    def distance(self, bound: float, measured: Any) -> float:
        """From no loss to ``bound``, on the scale of the interval's spread."""
        no_loss = self.no_loss(measured)
        return abs(math.log(bound / no_loss)) if self.logarithmic else abs(bound - no_loss)


def _text_metric(
    direction: Direction,
    of: Callable[[LanguageMetrics], Interval],
    no_loss: Callable[[LanguageMetrics], float],
    logarithmic: bool = False,
) -> _Metric:
    return _Metric(direction, WINDOWS, of, no_loss, logarithmic)


def _task_metric(
    direction: Direction, of: Callable[[TaskResult], Interval], no_loss: Callable[[TaskResult], float]
) -> _Metric:
    return _Metric(direction, EXAMPLES, of, no_loss)


_METRICS = {
    "perplexity": _text_metric(
        Direction.AT_MOST, lambda text: text.perplexity, lambda text: text.baseline.per_token, logarithmic=True
    ),
    "perplexity_ratio": _text_metric(
        Direction.AT_MOST, lambda text: text.perplexity_ratio, lambda _: 1.0, logarithmic=True
    ),
    "mean_kl": _text_metric(Direction.AT_MOST, lambda text: text.kl.mean, lambda _: 0.0),
    "top1_agreement": _text_metric(Direction.AT_LEAST, lambda text: text.top1_agreement, lambda _: 1.0),
    "routing_change": _Metric(Direction.AT_MOST, ROUTING, lambda routing: routing.change, lambda _: 0.0),
    "accuracy": _task_metric(Direction.AT_LEAST, lambda task: task.accuracy, lambda task: task.baseline.accuracy),
    "accuracy_drop": _task_metric(Direction.AT_MOST, lambda task: task.accuracy_drop, lambda _: 0.0),
    "macro_f1": _task_metric(Direction.AT_LEAST, lambda task: task.macro_f1, lambda task: task.baseline.macro_f1),
    "macro_f1_drop": _task_metric(Direction.AT_MOST, lambda task: task.macro_f1_drop, lambda _: 0.0),
}


def judge(
    limits: Limits,
    language: LanguageMetrics | None,
    tasks: Sequence[TaskResult],
    routing: RoutingMetrics | None = None,
) -> tuple[LimitOutcome, ...]:
    """Every limit's outcome, in the order of the recipe's keys; a limit on tasks has one for each of them."""
    outcomes: list[LimitOutcome] = []
    for name, metric in _METRICS.items():
        limit: Limit | None = getattr(limits, name)
        if limit is None:
            continue
        if metric.unit == EXAMPLES:
            judged = [_judge_task(name, limit, task) for task in tasks]
        else:
            measured = routing if metric.unit == ROUTING else language
            judged = [] if measured is None else [_judge_measured(name, TEXT, limit, measured)]
        outcomes += judged or [not_measured(name, limit.value, limit.on, metric.direction, metric.unit)]
    return tuple(outcomes)


MISSING: Final = {
    EXAMPLES: "no task was given",
    WINDOWS: "no text was given",
    ROUTING: "no text was given, the baseline is stored answers, or the model has no routed experts",
}


def overall(outcomes: Sequence[LimitOutcome]) -> Verdict:
    """``fail`` if a limit is missed; else ``not judged`` if none was measured, or one only on data that cannot measure
    quantization; else ``inconclusive`` if one is undecided."""
    verdicts = {outcome.verdict for outcome in outcomes} - {None}
    if not verdicts:
        return Verdict.NOT_JUDGED
    order = (Verdict.FAIL, Verdict.NOT_JUDGED, Verdict.INCONCLUSIVE, Verdict.PASS)
    return next(verdict for verdict in order if verdict in verdicts)


def judge_interval(subject: Subject, limit: Limit, measured: Interval, margin: float) -> LimitOutcome:
    """One limit against one confidence interval.

    Args:
        margin: distance from no loss to the limit, on the scale of the interval's spread; determines the sample size.
    """
    at_most = subject.direction is Direction.AT_MOST
    best, worst = (measured.low, measured.high) if at_most else (measured.high, measured.low)
    what = "the whole confidence interval"
    if limit.on == "estimate":
        best = worst = measured.estimate
        what = "the estimate"
    if worst is not None and _within(worst, limit.value, at_most):
        return subject.outcome(limit, measured, Verdict.PASS, f"{what} is within the limit")
    if best is not None and not _within(best, limit.value, at_most):
        return subject.outcome(limit, measured, Verdict.FAIL, f"{what} is beyond the limit")
    return _undecided(subject, limit, measured, margin)


def not_measured(
    name: str, bound: float, on: Literal["interval", "estimate"], direction: Direction, unit: str
) -> LimitOutcome:
    """The outcome of a limit without anything to measure it on."""
    reason = f"not measured: {MISSING[unit]}"
    return LimitOutcome(name, None, direction, bound, on, None, None, reason)


def _judge_task(name: str, limit: Limit, task: TaskResult) -> LimitOutcome:
    reason = task.why_not_judged
    if reason is None:
        return _judge_measured(name, task.name, limit, task)
    metric = _METRICS[name]
    subject = Subject(name, task.name, metric.direction, metric.unit)
    return subject.outcome(limit, metric.of(task), Verdict.NOT_JUDGED, reason)


def _judge_measured(name: str, subject: str, limit: Limit, measured: Any) -> LimitOutcome:
    metric = _METRICS[name]
    margin = metric.distance(limit.value, measured)
    return judge_interval(Subject(name, subject, metric.direction, metric.unit), limit, metric.of(measured), margin)


def _undecided(subject: Subject, limit: Limit, measured: Interval, margin: float) -> LimitOutcome:
    unit, reason, needed = subject.unit, "", None
    if measured.spread is None:
        reason = f"one {unit.removesuffix('s')} is not enough for a confidence interval"
    elif margin == 0:
        reason = "the limit allows no loss at all, which no sample size can show"
    elif measured.units >= (wanted := units_needed(measured, margin)):
        reason = f"the true value is too close to the limit to decide with {measured.units:,} {unit}"
    else:
        needed = wanted
        reason = (
            f"the confidence interval contains the limit: {measured.units:,} {unit} measured, about {needed:,} needed"
        )
    return subject.outcome(limit, measured, Verdict.INCONCLUSIVE, reason, needed)


def _within(value: float, bound: float, at_most: bool) -> bool:
    return value <= bound if at_most else value >= bound
