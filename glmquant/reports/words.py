"""Outcomes and numbers in words, as all reports show them."""

import math
from collections.abc import Sequence
from dataclasses import replace

from glmquant.evaluation.gate import Verdict
from glmquant.evaluation.metrics import KlSummary
from glmquant.evaluation.results import PromptAnswers, Setting, TextCoverage
from glmquant.evaluation.routing_metrics import RoutingMetrics
from glmquant.evaluation.statistics import Interval
from glmquant.evaluation.tasks import TaskResult

EXACT = 1e-9
"""Half-width, as a share of the estimate, that is rounding of the arithmetic and no uncertainty."""
WORDS = {
    Verdict.PASS: "passed",
    Verdict.FAIL: "failed",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.NOT_JUDGED: "not judged",
    None: "not measured",
}
HOW_TO_SET_LIMITS = (
    "No limits are set, so nothing is judged. Set one, for example check.limits.perplexity_ratio=1.05 for texts or "
    "check.limits.accuracy_drop=0.02 for tasks, or check by a recipe that has limits."
)
MARKS = {
    Verdict.PASS: "✅ pass",
    Verdict.FAIL: "❌ fail",
    Verdict.INCONCLUSIVE: "❔ inconclusive",
    Verdict.NOT_JUDGED: "➖ not judged",
    None: "➖ not measured",
}


def rounded(measured: Interval) -> str:
    """``1.0002 (0.9993 to 1.0010)``: as many decimals as the interval allows, none for show.

    The half-width keeps one digit, or two where the first is 1 or 2, as the Particle Data Group rounds (Review of
    Particle Physics, section 5.3, with 300 for 354).
    """
    low, high = measured.low, measured.high
    half = 0.0 if low is None or high is None else (high - low) / 2
    if low is None or high is None or half <= EXACT * abs(measured.estimate):
        return str(measured)
    leading = math.floor(math.log10(half))
    decimals = max(0, -leading + (half / 10.0**leading < 3))
    low, high = (_without_sign(bound, decimals) for bound in (low, high))
    return format(
        replace(measured, estimate=_without_sign(measured.estimate, decimals), low=low, high=high), f".{decimals}f"
    )


def percent(measured: Interval) -> str:
    """A proportion: ``97.3 (96.8 to 97.8) %``."""
    return f"{rounded(_hundredfold(measured))} %"


def points(measured: Interval) -> str:
    """A difference of two proportions: ``0.3 (-0.2 to 0.8) percentage points``."""
    return f"{rounded(_hundredfold(measured))} percentage points"


def _hundredfold(measured: Interval) -> Interval:
    low, high = (None if bound is None else 100 * bound for bound in (measured.low, measured.high))
    return replace(measured, estimate=100 * measured.estimate, low=low, high=high)


def _without_sign(value: float, decimals: int) -> float:
    """``value`` rounded; what rounds to nothing is not ``-0.0``."""
    return round(value, decimals) + 0.0


def size_ratio(setting: Setting) -> str:
    """The candidate's size in percent of the baseline's."""
    return "unknown share" if setting.size_ratio is None else f"{setting.size_ratio:.1%}"


def kl_percentiles(kl: KlSummary) -> str:
    return f"{kl.median:.3g}, {kl.p99:.3g}, {kl.p999:.3g}, {kl.max:.3g}"


def sentences(notes: Sequence[str]) -> list[str]:
    """A report's notes, each begun and ended as a sentence."""
    return [f"{note[:1].upper()}{note[1:]}." for note in notes]


def coverage_notes(texts: Sequence[TextCoverage]) -> list[str]:
    """How much of each text was read, in a sentence; another where the model was calibrated on one."""
    if not texts:
        return []
    read = (f"{text.num_tokens:,} of {text.of_tokens:,} tokens of {text.name}" for text in texts)
    known = [text.name for text in texts if text.calibrated_on]
    notes = ["Read: " + ", ".join(read) + "."]
    if known:
        notes.append(f"The model was calibrated on {', '.join(known)}: what it loses there says little of other text.")
    return notes


def task_notes(task: TaskResult) -> list[str]:
    """What a reader must know before the numbers of a task."""
    notes = [f"{task.num_examples:,} examples; accuracy of a majority-class classifier: {task.majority:.2%}."]
    if task.num_truncated:
        notes.append(f"{task.num_truncated:,} texts were truncated to the context length.")
    if (reason := task.why_not_judged) is not None:
        notes.append(reason[:1].upper() + reason[1:] + ".")
    return notes


def routing_note(metrics: RoutingMetrics) -> str:
    """How often the sets of experts differ, in a sentence."""
    return (
        f"{metrics.num_tokens:,} tokens in {len(metrics.layers)} layers with routed experts: the set of experts is "
        f"another than the baseline's in {percent(metrics.change)} of them."
    )


def busiest(load: Sequence[int]) -> str:
    """The expert that most tokens meet, and its share."""
    most = max(range(len(load)), key=lambda expert: load[expert])
    return f"{most}: {load[most] / max(1, sum(load)):.1%}"


def same_words(answers: PromptAnswers) -> str:
    """How far two answers are the same, in a sentence."""
    if answers.baseline == answers.candidate and answers.is_whole:
        return f"The same answer, {answers.baseline_tokens} tokens."
    return f"The first {answers.same_tokens} of the float model's {answers.baseline_tokens} tokens are the same."
