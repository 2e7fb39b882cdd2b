"""Intervals, an exact test, and how much data a decision takes.

Shape suffixes: U units, that is windows or examples; C different outcomes, S resamples.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.95
POWER = 0.96
"""What a recommended sample aims at, so that heavy tails still leave 95 % (``benchmarks/gate_statistics``)."""
RESAMPLES = 2000
SEED = 0
LAST_TERM = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)) ** 2 / 2


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided 95 % confidence interval.

    Attributes:
        low, high: None where one unit is too little for an interval.
        units: how many independent units it rests on.
        spread: standard deviation of one unit, on the scale the interval was computed on; None with one unit.
    """

    estimate: float
    low: float | None
    high: float | None
    units: int
    spread: float | None


@dataclass(frozen=True)
class PairedCounts:
    """How often two classifiers are right on the same examples."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def total(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


def mean_interval(values_U: NDArray[np.float64], lowest: float = -math.inf, highest: float = math.inf) -> Interval:
    """The mean of independent units, with Student's t interval.

    For tokens of a text a unit is a window: tokens within one are correlated, so each window counts once, with its
    mean (clustered standard errors, arXiv:2411.00640) and differences are taken within it.

    Args:
        lowest, highest: what the mean cannot pass; the interval is cut there.
    """
    units, estimate = len(values_U), float(np.mean(values_U))
    if units < 2:
        return Interval(estimate, None, None, units, None)
    spread = float(np.std(values_U, ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, units - 1)) * spread / math.sqrt(units)
    return Interval(estimate, max(estimate - half, lowest), min(estimate + half, highest), units, spread)


def ratio_interval(log_ratios_U: NDArray[np.float64]) -> Interval:
    """The exponential of :func:`mean_interval`; ``spread`` stays on the logarithmic scale."""
    log = mean_interval(log_ratios_U)
    low, high = (None if bound is None else math.exp(bound) for bound in (log.low, log.high))
    return Interval(math.exp(log.estimate), low, high, log.units, log.spread)


def proportion_interval(successes: int, total: int) -> Interval:
    """A proportion with Wilson's interval (J. Am. Stat. Assoc. 22, 1927, 209-212)."""
    share = successes / total
    interval = stats.binomtest(successes, total).proportion_ci(LEVEL, method="wilson")
    # The cut keeps rounding from leaving the estimate outside.
    low, high = min(float(interval.low), share), max(float(interval.high), share)
    return Interval(share, low, high, total, math.sqrt(share * (1 - share)))


def resampled_counts(counts_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of C outcomes occurs when as many units are drawn again, with replacement: ``[RESAMPLES, C]``."""
    total = counts_C.sum()
    return np.random.default_rng(SEED).multinomial(total, counts_C / total, size=RESAMPLES)


def bootstrap_interval(
    estimate: float, resampled_S: NDArray[np.float64], units: int, lowest: float, highest: float
) -> Interval:
    """The normal interval with the bootstrap's standard error, cut at what is possible.

    With some hundred examples it covers the truth better than percentiles do, which are too narrow where few examples
    tell two classifiers apart (``benchmarks/gate_statistics``).
    """
    if units < 2:
        return Interval(float(estimate), None, None, units, None)
    error = float(np.std(resampled_S))
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    low, high = max(float(estimate) - half, lowest), min(float(estimate) + half, highest)
    return Interval(float(estimate), low, high, units, error * math.sqrt(units))


def mcnemar(counts: PairedCounts) -> float:
    """The exact two-sided McNemar test: the probability of so uneven a split of the discordant pairs by chance."""
    discordant = counts.only_first + counts.only_second
    return 1.0 if discordant == 0 else float(stats.binomtest(counts.only_first, discordant, 0.5).pvalue)


def paired_difference(counts: PairedCounts) -> Interval:
    """The first accuracy less the second, with the score interval for paired proportions
    (T. Tango, Statistics in Medicine 17, 1998, 891-908): the differences that the score test does not reject.

    Unlike a bootstrap, it has a width even where no pair is discordant.
    """
    total = counts.total
    estimate = (counts.only_first - counts.only_second) / total
    limit = float(stats.norm.ppf((1 + LEVEL) / 2))

    def beyond(difference: float, side: int) -> float:
        return side * _score(counts, difference) - limit

    edge = 1 - 1e-12
    low = -1.0 if counts.only_second == total else optimize.brentq(beyond, -edge, estimate, args=(1,), xtol=1e-12)
    high = 1.0 if counts.only_first == total else optimize.brentq(beyond, estimate, edge, args=(-1,), xtol=1e-12)
    # One discordant pair more than seen, so that perfect agreement does not promise that all examples agree.
    discordant = (counts.only_first + counts.only_second + 1) / (total + 1)
    spread = math.sqrt(max(discordant - estimate**2, 0.0))
    return Interval(estimate, float(low), float(high), total, spread)


def units_needed(measured: Interval, margin: float) -> int:
    """Units for an interval to exclude a value ``margin`` away from the truth in 95 % of runs.

    With a limit halfway between no loss and the truth, ``margin`` is the limit's own distance from no loss: a loss of
    twice the limit is then found, and no loss passes, each 19 times in 20. Student's quantiles at the degrees of
    freedom of what was measured stand in for the normal ones, since its spread is itself uncertain (C. Stein, Annals
    of Mathematical Statistics 16, 1945, 243-258).

    Args:
        measured: at least two units, so that it has a spread.
    """
    freedom = measured.units - 1
    steps = float(stats.t.ppf((1 + LEVEL) / 2, freedom) + stats.t.ppf(POWER, freedom))
    units = (steps * (measured.spread or 0.0) / margin) ** 2
    # The interval of the larger sample is Student's too, wider than the normal one by this first-order term.
    return max(2, math.ceil(units + LAST_TERM))


def _score(counts: PairedCounts, difference: float) -> float:
    """Tango's score for the hypothesis that the accuracies differ by ``difference``."""
    total = counts.total
    excess = counts.only_first - counts.only_second - total * difference
    linear = (2 * total - counts.only_first + counts.only_second) * difference - counts.only_first - counts.only_second
    constant = -counts.only_second * difference * (1 - difference)
    only_second = (math.sqrt(linear**2 - 8 * total * constant) - linear) / (4 * total)
    variance = total * (2 * only_second + difference * (1 - difference))
    if abs(excess) < 1e-9:
        return 0.0
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)
