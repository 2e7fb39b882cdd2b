"""Results as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy.made import Cost
from benchmarks.accuracy.measure import kl_difference
from benchmarks.accuracy.rows import Row
from glmquant.evaluation.metrics import LanguageMetrics
from glmquant.evaluation.statistics import Interval

SAME_SIZE = 0.005  # bits a weight
HEAD = (
    "quantized by",
    "bits",
    "perplexity / FP16 (95 %)",
    "mean KL, nats (95 %)",
    "same top 1",
    "KL less that of our best of no larger size (95 %)",
    "wall s",
    "CPU s",
)


@dataclass(frozen=True, eq=False)
class Result:
    """A row that was made and measured; ``texts`` by file name, the case's own text first."""

    row: Row
    average_bits: float
    cost: Cost
    texts: dict[str, LanguageMetrics]

    def on(self, text: str) -> LanguageMetrics:
        return self.texts[text]


@dataclass(frozen=True)
class Failure:
    row: Row
    why: str


def best_of_ours(results: Iterable[Result], text: str, bits: float) -> Result | None:
    """The result of ours with the lowest KL among those of at most ``bits``."""
    fitting = [each for each in results if each.row.is_ours and each.average_bits <= bits + SAME_SIZE]
    return min(fitting, key=lambda each: each.on(text).kl.mean.estimate, default=None)


def accuracy_table(results: Sequence[Result | Failure], everything: Sequence[Result], text: str) -> list[str]:
    """Rows on one text; ours that a peer is compared with are looked for in ``everything``."""
    lines = [_line(HEAD), _line("---" for _ in HEAD)]
    if everything:
        baseline = everything[0].on(text).baseline.per_token
        lines.append(_line((f"FP16 (perplexity {baseline:.3f})", "16", "1", "0", "100 %", "", "", "")))
    for each in results:
        if isinstance(each, Failure):
            lines.append(_line((each.row.name, f"**failed:** {each.why}", *[""] * (len(HEAD) - 2))))
        else:
            lines.append(_result_line(each, everything, text))
    return lines


def elsewhere_table(results: Sequence[Result], texts: Sequence[Path]) -> list[str]:
    """Perplexity ratio and mean KL on every text, the calibration's own kind first."""
    names = [path.name for path in texts]
    head = ("quantized by", "bits", *(f"{name}: {what}" for name in names for what in ("perplexity / FP16", "mean KL")))
    lines = [_line(head), _line("---" for _ in head)]
    for each in results:
        both = [(each.on(name).perplexity_ratio, each.on(name).kl.mean) for name in names]
        figures = (_figure(interval) for pair in both for interval in pair)
        lines.append(_line((_shown(each.row), f"{each.average_bits:.3f}", *figures)))
    return lines


def summary(result: Result, text: str) -> str:
    """A row on a text, in a line."""
    metrics, cost = result.on(text), result.cost
    return ", ".join(
        (
            f"{result.row.name} on {text}: {result.average_bits:.3f} bits",
            f"perplexity x {_figure(metrics.perplexity_ratio)}",
            f"KL {_figure(metrics.kl.mean)}",
            f"top 1 {metrics.top1_agreement.estimate:.1%}",
            f"{cost.wall:.0f} s, {cost.cpu:.0f} CPU s, {cost.peak / 1e9:.1f} GB",
        )
    )


def _result_line(each: Result, everything: Sequence[Result], text: str) -> str:
    metrics = each.on(text)
    against = ""
    best = None if each.row.is_ours else best_of_ours(everything, text, each.average_bits)
    if best is not None:
        gap = kl_difference(metrics, best.on(text))
        against = f"{gap.estimate:+.4f} ({_bounds(gap, '+.4f')}), {best.row.name}"
    elif not each.row.is_ours:
        against = "none of ours is as small"
    return _line(
        (
            _shown(each.row),
            f"{each.average_bits:.3f}",
            _figure(metrics.perplexity_ratio),
            _figure(metrics.kl.mean),
            f"{metrics.top1_agreement.estimate:.1%}",
            against,
            f"{each.cost.wall:.0f}",
            f"{each.cost.cpu:.0f}",
        )
    )


def _shown(row: Row) -> str:
    return f"**ours:** {row.name}" if row.is_ours else row.name


def _figure(interval: Interval) -> str:
    return f"{interval.estimate:.4f} ({_bounds(interval, '.4f')})"


def _bounds(interval: Interval, form: str) -> str:
    assert interval.low is not None
    assert interval.high is not None
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
