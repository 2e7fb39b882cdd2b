"""Does the gate keep its promises? Coverage of the intervals, false alarms, and power at the sample size it recommends.

    python -m benchmarks.gate_statistics.run > benchmarks/gate_statistics/result.md

Everything is simulated with the check's own functions, so that the truth is known. Tokens of a window are correlated
(a window has a level of its own) and their losses have heavy tails, as in real text. Takes about five minutes.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.machine import describe_machine
from glmquant.evaluation.gate import EXAMPLES, WINDOWS, Direction, Subject, Verdict, judge_interval
from glmquant.evaluation.statistics import Interval, mean_interval, paired_difference, ratio_interval, units_needed
from glmquant.evaluation.tasks import macro_f1_intervals, paired_counts
from glmquant.recipe.check_options import Limit

TOKENS = 64
Rng = np.random.Generator
Sample = Callable[[Rng, int, float], Interval]


@dataclass(frozen=True)
class Case:
    """A metric: how it is sampled at a true loss, its limit, a pilot's size, and the scale of its losses.

    ``nothing`` is the loss that stands for none (a divergence is never zero).
    """

    name: str
    unit: str
    sample: Sample
    limit: float
    pilot: int
    no_loss: float = 0.0
    logarithmic: bool = False
    nothing: float = 0.0

    @property
    def margin(self) -> float:
        return float(np.log(self.limit)) if self.logarithmic else self.limit - self.no_loss

    @property
    def twice(self) -> float:
        """A true loss of twice the limit."""
        return self.limit**2 if self.logarithmic else self.no_loss + 2 * self.margin

    def fails(self, measured: Interval) -> bool:
        subject = Subject(self.name, "simulated", Direction.AT_MOST, self.unit)
        return judge_interval(subject, Limit(value=self.limit), measured, self.margin).verdict is Verdict.FAIL


def windows_of_losses(rng: Rng, windows: int, loss: float) -> NDArray[np.float64]:
    """Mean extra loss of each window, in nats a token: heavy-tailed tokens around a level of the window's own."""
    level_W1 = loss + 0.01 * rng.normal(size=(windows, 1))
    tokens_WT = level_W1 + 0.1 * rng.standard_t(4, size=(windows, TOKENS))
    return tokens_WT.mean(1)


def perplexity_ratio(rng: Rng, windows: int, truth: float) -> Interval:
    return ratio_interval(windows_of_losses(rng, windows, float(np.log(truth))))


def mean_kl(rng: Rng, windows: int, truth: float) -> Interval:
    """Divergence of a token is skewed: squared noise, with a level of the window's own."""
    level_W1 = rng.gamma(8.0, truth / 8.0, size=(windows, 1))
    return mean_interval((level_W1 * rng.chisquare(1, size=(windows, TOKENS))).mean(1), lowest=0)


def answers(rng: Rng, examples: int, drop: float, labels: int) -> tuple[NDArray[np.int64], ...]:
    """True labels and two classifiers' answers: right in 85 % and ``drop`` less; they agree on most of their errors."""
    truth_E = rng.choice(labels, examples, p=np.arange(labels, 0, -1) / (labels * (labels + 1) / 2))
    kind_E = rng.choice(4, examples, p=[0.83 - max(drop, 0), 0.02 + max(drop, 0), 0.02, 0.13])
    wrong_E = (truth_E + rng.integers(1, labels, examples)) % labels
    return truth_E, np.where(kind_E < 2, truth_E, wrong_E), np.where(kind_E % 2 == 0, truth_E, wrong_E)


def accuracy_drop(rng: Rng, examples: int, truth: float) -> Interval:
    right_E, first_E, second_E = answers(rng, examples, truth, 2)
    return paired_difference(paired_counts(first_E == right_E, second_E == right_E))


def macro_f1_drop(rng: Rng, examples: int, truth: float) -> Interval:
    return macro_f1_intervals(*answers(rng, examples, truth, 3), 3)[1]


CASES = (
    Case("perplexity_ratio", WINDOWS, perplexity_ratio, 1.01, 16, no_loss=1.0, logarithmic=True, nothing=1.0),
    Case("mean_kl", WINDOWS, mean_kl, 0.05, 16, nothing=0.005),
    Case("accuracy_drop", EXAMPLES, accuracy_drop, 0.03, 200),
    Case("macro_f1_drop", EXAMPLES, macro_f1_drop, 0.03, 200),
)


@cache
def true_value(case: Case, loss: float) -> float:
    """The truth on the metric's own scale; that of macro F1 is measured, on very many examples."""
    if case.sample is not macro_f1_drop:
        return loss
    return macro_f1_drop(np.random.default_rng(1), 4_000_000, loss).estimate


def coverage(case: Case, units: int, loss: float, runs: int) -> float:
    rng, truth = np.random.default_rng([units, int(1e6 * loss)]), true_value(case, loss)
    intervals = [case.sample(rng, units, loss) for _ in range(runs)]
    return float(np.mean([i.low <= truth <= i.high for i in intervals]))  # type: ignore[operator]


def failures(case: Case, units: int, loss: float, runs: int) -> float:
    rng = np.random.default_rng([units, int(1e6 * loss), 1])
    return float(np.mean([case.fails(case.sample(rng, units, loss)) for _ in range(runs)]))


def power(case: Case, runs: int) -> tuple[float, float]:
    """How often a loss of twice the limit fails with as many units as a pilot recommends, and their median number."""
    rng, failed, sizes = np.random.default_rng(7), [], []
    for _ in range(runs):
        pilot = case.sample(rng, case.pilot, case.twice)
        needed = units_needed(pilot, case.margin)
        sizes.append(needed)
        failed.append(case.fails(case.sample(rng, needed, case.twice)))
    return float(np.mean(failed)), float(np.median(sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    print("# The gate's statistics\n")
    print("`python -m benchmarks.gate_statistics.run > benchmarks/gate_statistics/result.md`\n")
    print(f"{runs:,} runs each; glmquant {version('glmquant')}, scipy {version('scipy')}, numpy {version('numpy')};")
    print(f"{describe_machine()}.\n")
    print("## Share of 95 % intervals that hold the truth\n")
    print("| metric | units | no loss | at the limit | at twice the limit |\n| --- | --- | --- | --- | --- |")
    for case in CASES:
        for units in (case.pilot, 4 * case.pilot):
            losses = (case.nothing, case.limit, case.twice)
            shares = " | ".join(f"{coverage(case, units, loss, runs):.1%}" for loss in losses)
            print(f"| {case.name} | {units} {case.unit} | {shares} |", flush=True)
    print("\n## How often the gate fails\n")
    print("| metric | limit | no true loss | true loss at the limit | twice the limit, recommended sample |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        alarms, edge = (failures(case, 4 * case.pilot, loss, runs) for loss in (case.nothing, case.limit))
        found, size = power(case, runs)
        large = f"{found:.1%} (median {size:.0f} {case.unit})"
        print(f"| {case.name} | {case.limit:g} | {alarms:.1%} | {edge:.1%} | {large} |", flush=True)


if __name__ == "__main__":
    main()
