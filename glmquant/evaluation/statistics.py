"""Confidence intervals, McNemar's exact test, and sample sizes.

Shape suffixes: U units, that is windows or examples; O different outcomes, S resamples.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

LEVEL = 0.95
POWER = 0.96
"""Nominal power of a recommended sample; heavy tails leave 95 % of it (``benchmarks/gate_statistics``)."""
RESAMPLES = 2000
SEED = 0
LAST_TERM = float(stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)) ** 2 / 2


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided 95 % confidence interval.

    Attributes:
        low, high: None with one unit.
        units: sample size: the number of independent units.
        spread: standard deviation of one unit, on the scale the interval was computed on; None with one unit.
    """

    estimate: float
    low: float | None
    high: float | None
    units: int
    spread: float | None

    def __format__(self, spec: str) -> str:
        """``1.012 (1.008 to 1.016)``; ``spec`` formats each number and defaults to ``.4g``."""
        estimate, *bounds = (format(x, spec or ".4g") for x in (self.estimate, self.low, self.high) if x is not None)
        return f"{estimate} ({' to '.join(bounds)})" if bounds else estimate

    def __str__(self) -> str:
        return format(self, "")

    def percent(self) -> str:
        """A proportion in percent: ``97.31 (96.80 to 97.82) %``."""
        return f"{self._hundredfold():.2f} %"

    def percentage_points(self) -> str:
        """A difference of two proportions: ``0.31 (-0.20 to 0.82) percentage points``."""
        return f"{self._hundredfold():.2f} percentage points"

    def _hundredfold(self) -> "Interval":
        low, high = (None if bound is None else 100 * bound for bound in (self.low, self.high))
        return replace(self, estimate=100 * self.estimate, low=low, high=high)


@dataclass(frozen=True)
class PairedCounts:
    """Correct predictions of two classifiers on the same examples."""

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
    mean (clustered standard errors, arXiv:2411.00640), and differences are paired within it.

    Args:
        lowest, highest: range of the mean; the interval is clipped to it.
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
    # Rounding must not leave the estimate outside.
    low, high = min(float(interval.low), share), max(float(interval.high), share)
    return Interval(share, low, high, total, math.sqrt(share * (1 - share)))


def resampled_counts(counts_O: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bootstrap counts of O outcomes: as many units drawn with replacement, int64 ``[RESAMPLES, O]``."""
    total = counts_O.sum()
    return np.random.default_rng(SEED).multinomial(total, counts_O / total, size=RESAMPLES)


def bootstrap_interval(
    estimate: float, resampled_S: NDArray[np.float64], units: int, lowest: float, highest: float
) -> Interval:
    """The normal interval with the bootstrap's standard error, clipped to ``lowest`` and ``highest``.

    With a few hundred examples its coverage is better than that of bootstrap percentiles, which are too narrow where
    two classifiers differ on few examples (``benchmarks/gate_statistics``).
    """
    if units < 2:
        return Interval(float(estimate), None, None, units, None)
    error = float(np.std(resampled_S))
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    low, high = max(float(estimate) - half, lowest), min(float(estimate) + half, highest)
    return Interval(float(estimate), low, high, units, error * math.sqrt(units))


def mcnemar(counts: PairedCounts) -> float:
    """The p-value of the exact two-sided McNemar test."""
    discordant = counts.only_first + counts.only_second
    return 1.0 if discordant == 0 else float(stats.binomtest(counts.only_first, discordant, 0.5).pvalue)


def paired_difference(counts: PairedCounts) -> Interval:
    """The first accuracy minus the second, with the score interval for paired proportions
    (T. Tango, Statistics in Medicine 17, 1998, 891-908): the differences that the score test does not reject.

    Unlike a bootstrap interval, it has a width even where no pair is discordant.
    """
    total = counts.total
    estimate = (counts.only_first - counts.only_second) / total
    limit = float(stats.norm.ppf((1 + LEVEL) / 2))

    def beyond(difference: float, side: int) -> float:
        return side * _score(counts, difference) - limit

    edge = 1 - 1e-12
    low = -1.0 if counts.only_second == total else optimize.brentq(beyond, -edge, estimate, args=(1,), xtol=1e-12)
    high = 1.0 if counts.only_first == total else optimize.brentq(beyond, estimate, edge, args=(-1,), xtol=1e-12)
    # One discordant pair more than observed: perfect agreement in the sample does not mean it in the population.
    discordant = (counts.only_first + counts.only_second + 1) / (total + 1)
    spread = math.sqrt(max(discordant - estimate**2, 0.0))
    return Interval(estimate, float(low), float(high), total, spread)


def units_needed(measured: Interval, margin: float) -> int:
    """Sample size for an interval to exclude a value ``margin`` away from the truth with 95 % power.

    With the limit's distance from no loss as ``margin``, a loss of twice the limit fails, and no loss passes, in 95 %
    of runs each. Student's quantiles at the degrees of freedom of the pilot sample replace the normal ones, since its
    spread is itself an estimate (C. Stein, Annals of Mathematical Statistics 16, 1945, 243-258).

    Args:
        measured: the pilot sample's interval, of at least two units, so that it has a spread.
    """
    freedom = measured.units - 1
    steps = float(stats.t.ppf((1 + LEVEL) / 2, freedom) + stats.t.ppf(POWER, freedom))
    units = (steps * (measured.spread or 0.0) / margin) ** 2
    # The interval of the larger sample is Student's too, wider than the normal one by this first-order term.
    return max(2, math.ceil(units + LAST_TERM))


def examples_above_chance(accuracy: float, chance: float) -> int:
    """Sample size at which a classifier of this accuracy is shown to be better than chance with 95 % power.

    Shown by :func:`proportion_interval`, which inverts the score test of one proportion (J. L. Fleiss, B. Levin,
    M. C. Paik, Statistical Methods for Rates and Proportions, 3rd ed., 2003, section 2.3).

    Args:
        accuracy: above ``chance``.
    """
    null, truth = math.sqrt(chance * (1 - chance)), math.sqrt(accuracy * (1 - accuracy))
    steps = float(stats.norm.ppf((1 + LEVEL) / 2)) * null + float(stats.norm.ppf(POWER)) * truth
    return math.ceil((steps / (accuracy - chance)) ** 2)


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
