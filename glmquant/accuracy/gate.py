"""From measurements and limits to a verdict."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from glmquant.accuracy.metrics import LanguageMetrics
from glmquant.accuracy.statistics import Interval, units_needed
from glmquant.accuracy.tasks import TaskResult
from glmquant.recipe.schema import Limit, Limits

TEXT = "text"
WINDOWS, EXAMPLES = "windows", "examples"


class Verdict(StrEnum):
    """What a limit, or all of them together, say."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


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
        reason: the outcome in words.
        units_needed: how many units would settle it with 95 % power; None unless inconclusive for want of data.
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


@dataclass(frozen=True)
class _Metric:
    """How a limit's key is judged: ``no_loss`` is its value where the models are equal."""

    direction: Direction
    no_loss: float
    unit: str
    logarithmic: bool = False

    def distance(self, bound: float) -> float:
        """From no loss to ``bound``, on the scale of the interval's spread."""
        return abs(math.log(bound / self.no_loss)) if self.logarithmic else abs(bound - self.no_loss)


_METRICS = {
    "perplexity_ratio": _Metric(Direction.AT_MOST, 1.0, WINDOWS, logarithmic=True),
    "mean_kl": _Metric(Direction.AT_MOST, 0.0, WINDOWS),
    "top1_agreement": _Metric(Direction.AT_LEAST, 1.0, WINDOWS),
    "accuracy_drop": _Metric(Direction.AT_MOST, 0.0, EXAMPLES),
}


def judge(limits: Limits, language: LanguageMetrics | None, tasks: Sequence[TaskResult]) -> tuple[LimitOutcome, ...]:
    """Every limit's outcome, in the order of the recipe's keys; a limit on tasks has one for each of them."""
    outcomes: list[LimitOutcome] = []
    for name, metric in _METRICS.items():
        limit: Limit | None = getattr(limits, name)
        if limit is None:
            continue
        about_tasks = metric.unit == EXAMPLES
        judged = _judge_tasks(name, limit, tasks) if about_tasks else _judge_text(name, limit, language)
        outcomes += list(judged) or [_not_measured(name, limit)]
    return tuple(outcomes)


def overall(outcomes: Sequence[LimitOutcome]) -> Verdict:
    """``fail`` if a limit is missed, else ``inconclusive`` if one is undecided or none of those set was measured."""
    verdicts = [outcome.verdict for outcome in outcomes]
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    undecided = Verdict.INCONCLUSIVE in verdicts or (bool(verdicts) and not any(verdicts))
    return Verdict.INCONCLUSIVE if undecided else Verdict.PASS


def _judge_text(name: str, limit: Limit, language: LanguageMetrics | None) -> Iterable[LimitOutcome]:
    if language is not None:
        measured = {
            "perplexity_ratio": language.perplexity_ratio,
            "mean_kl": language.kl.mean,
            "top1_agreement": language.top1_agreement,
        }
        yield _judge_one(name, TEXT, limit, measured[name])


def _judge_tasks(name: str, limit: Limit, tasks: Sequence[TaskResult]) -> Iterable[LimitOutcome]:
    for task in tasks:
        if task.near_chance:
            reason = "the baseline is not above chance, so its accuracy says nothing about quantisation"
            yield _outcome(name, task.name, limit, task.accuracy_drop, Verdict.INCONCLUSIVE, reason)
        else:
            yield _judge_one(name, task.name, limit, task.accuracy_drop)


def _judge_one(name: str, subject: str, limit: Limit, measured: Interval) -> LimitOutcome:
    at_most = _METRICS[name].direction is Direction.AT_MOST
    best, worst = (measured.low, measured.high) if at_most else (measured.high, measured.low)
    if limit.on == "estimate":
        best = worst = measured.estimate
    if worst is not None and _within(worst, limit.value, at_most):
        what = "the whole interval" if limit.on == "interval" else "the estimate"
        return _outcome(name, subject, limit, measured, Verdict.PASS, f"{what} is within the limit")
    if best is not None and not _within(best, limit.value, at_most):
        what = "the whole interval" if limit.on == "interval" else "the estimate"
        return _outcome(name, subject, limit, measured, Verdict.FAIL, f"{what} is beyond the limit")
    return _undecided(name, subject, limit, measured)


def _undecided(name: str, subject: str, limit: Limit, measured: Interval) -> LimitOutcome:
    unit, margin = _METRICS[name].unit, _METRICS[name].distance(limit.value)
    if measured.spread is None:
        reason = f"one of the {unit} is too little for an interval"
        return _outcome(name, subject, limit, measured, Verdict.INCONCLUSIVE, reason)
    if margin == 0:
        reason = "the limit allows no loss at all, which no amount of data can show"
        return _outcome(name, subject, limit, measured, Verdict.INCONCLUSIVE, reason)
    needed = units_needed(measured.spread, margin)
    if measured.units >= needed:
        reason = f"the true value lies too near the limit to tell with {measured.units:,} {unit}"
        return _outcome(name, subject, limit, measured, Verdict.INCONCLUSIVE, reason)
    reason = f"the interval spans the limit: {measured.units:,} {unit} measured, about {needed:,} would settle it"
    return _outcome(name, subject, limit, measured, Verdict.INCONCLUSIVE, reason, needed)


def _within(value: float, bound: float, at_most: bool) -> bool:
    return value <= bound if at_most else value >= bound


def _outcome(
    name: str,
    subject: str,
    limit: Limit,
    measured: Interval,
    verdict: Verdict,
    reason: str,
    needed: int | None = None,
) -> LimitOutcome:
    metric = _METRICS[name]
    return LimitOutcome(
        name, subject, metric.direction, limit.value, limit.on, measured, verdict, reason, needed, metric.unit
    )


def _not_measured(name: str, limit: Limit) -> LimitOutcome:
    metric = _METRICS[name]
    reason = f"not measured: no {'task' if metric.unit == EXAMPLES else 'text'} was given"
    return LimitOutcome(name, None, metric.direction, limit.value, limit.on, None, None, reason)
