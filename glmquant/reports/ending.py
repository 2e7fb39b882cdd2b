"""The last lines that a check says: verdict, size, and each limit with what was measured, in a terminal or a log."""

import math
from collections.abc import Sequence

from glmquant.core.units import size
from glmquant.evaluation.gate import WINDOWS, LimitOutcome, Verdict
from glmquant.evaluation.results import AccuracyReport
from glmquant.inert import inert_line
from glmquant.reports.words import HOW_TO_SET_LIMITS, MARKS, rounded, sentences, size_ratio


def in_short(report: AccuracyReport, places: Sequence[tuple[str, str]] = ()) -> str:
    """About ten plain lines.

    Args:
        places: what lies where, and what to do next: a word and a path or a command, in the order to be told.
    """
    setting = report.setting
    verdict = f"{MARKS[report.verdict]}: {setting.candidate.name}, {size(setting.candidate.num_bytes)}"
    lines = [f"{verdict}, {size_ratio(setting)} of {setting.baseline.name}", *_limits(report.limits)]
    if not report.limits:
        lines.append(HOW_TO_SET_LIMITS)
    width = max((len(word) for word, _ in places), default=0)
    lines += [*sentences(report.notes), *(f"{word:{width}}  {place}" for word, place in places)]
    return "\n".join(map(inert_line, lines))


def tokens_to_decide(report: AccuracyReport) -> int | None:
    """``check.num_tokens`` with which every limit that is undecided for want of text would be decided; None where
    nothing is, or more text is not what it takes."""
    undecided = [outcome for outcome in report.limits if outcome.verdict is Verdict.INCONCLUSIVE]
    if report.language is None or not undecided:
        return None
    needed = [outcome.units_needed for outcome in undecided if outcome.unit == WINDOWS]
    if len(needed) < len(undecided) or None in needed:
        return None
    metrics = report.language
    length = math.ceil(metrics.num_tokens / len(metrics.windows)) + 1  # a window's first token is not predicted
    return length * math.ceil(max(filter(None, needed)) / max(1, len(report.texts)))


def _limits(outcomes: Sequence[LimitOutcome]) -> list[str]:
    """A line each, in columns; another with the reason where a limit is not met."""
    rows = [
        (MARKS[each.verdict], each.name, "" if each.measured is None else rounded(each.measured)) for each in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for outcome, row in zip(outcomes, rows, strict=True):
        cells = [f"{inert_line(cell):{width}}" for cell, width in zip(row, widths, strict=True)]
        if outcome.verdict is None:
            lines.append("  ".join([*cells[:2], outcome.reason.removeprefix("not measured: ")]))
            continue
        lines.append("  ".join([*cells, outcome.bound_in_words]))
        if outcome.verdict is not Verdict.PASS:
            lines.append(f"    {outcome.reason}")
    return lines
