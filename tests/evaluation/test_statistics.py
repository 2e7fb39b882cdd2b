import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from glmquant.evaluation.statistics import (
    Interval,
    PairedCounts,
    examples_above_chance,
    mcnemar,
    mean_interval,
    paired_difference,
    proportion_interval,
    ratio_interval,
    units_needed,
)

COUNTS = st.builds(PairedCounts, *[st.integers(0, 40)] * 4).filter(lambda counts: counts.total > 0)


def test_the_mean_has_students_interval() -> None:
    values = np.array([1.0, 2.0, 4.0, 7.0, 7.5])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert (interval.estimate, interval.units) == (4.3, 5)
    assert interval.spread == pytest.approx(np.std(values, ddof=1))


def test_the_interval_is_cut_at_what_is_possible() -> None:
    interval = mean_interval(np.array([0.9, 1.0]), lowest=0.5, highest=1)
    assert (interval.low, interval.high) == (0.5, 1)


def test_one_unit_has_no_interval() -> None:
    assert mean_interval(np.array([3.0])) == Interval(3.0, None, None, 1, None)
    assert ratio_interval(np.array([0.0])) == Interval(1.0, None, None, 1, None)


def test_equal_units_have_an_interval_of_no_width() -> None:
    assert ratio_interval(np.zeros(4)) == Interval(1.0, 1.0, 1.0, 4, 0.0)


def test_a_ratio_is_computed_on_the_logarithm() -> None:
    logs = np.log([1.1, 1.2, 1.05])
    interval, log = ratio_interval(logs), mean_interval(logs)
    assert interval.low is not None
    assert log.low is not None
    assert interval.low == pytest.approx(math.exp(log.low))
    assert interval.estimate == pytest.approx((1.1 * 1.2 * 1.05) ** (1 / 3))
    assert interval.spread == log.spread


@given(COUNTS)
def test_mcnemar_is_the_exact_sign_test(counts: PairedCounts) -> None:
    b, c = counts.only_first, counts.only_second
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(counts) == pytest.approx(min(1.0, 2 * tail))


def test_wilsons_interval_of_a_textbook() -> None:
    interval = proportion_interval(81, 263)  # Newcombe 1998, table I
    assert (interval.low, interval.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_a_proportions_interval_holds_it_in_spite_of_rounding() -> None:
    """All or none right: Wilson's formula then gives the estimate itself, but for the last bits."""
    for total in range(1, 200):
        for successes in (0, 1, total // 2, total - 1, total):
            interval = proportion_interval(successes, total)
            assert interval.low <= interval.estimate <= interval.high


@given(COUNTS)
def test_the_score_interval_holds_the_differences_that_are_not_rejected(counts: PairedCounts) -> None:
    """By search over the nuisance parameter on a grid, where the library's function has a closed form."""
    interval = paired_difference(counts)
    assert interval.low is not None
    assert interval.high is not None
    assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
    for bound in (interval.low, interval.high):
        if abs(bound) < 0.98:
            assert abs(naive_score(counts, bound)) == pytest.approx(1.96, abs=0.05)


def naive_score(counts: PairedCounts, difference: float) -> float:
    """The score statistic, its nuisance parameter found by maximizing the likelihood on a fine grid."""
    n, b, c = counts.total, counts.only_first, counts.only_second
    lowest = max(0.0, -difference)
    q = lowest + (np.linspace(0, 1, 400_001)[1:-1]) ** 2 * ((1 - difference) / 2 - lowest)
    p, rest = q + difference, 1 - 2 * q - difference
    likelihood = sum(k * np.log(x) for k, x in ((b, p), (c, q), (n - b - c, rest)) if k)
    best = q[np.argmax(likelihood)]
    return float((b - c - n * difference) / math.sqrt(n * (2 * best + difference - difference**2)))


@given(COUNTS)
def test_swapping_the_sides_mirrors_the_interval(counts: PairedCounts) -> None:
    swapped = PairedCounts(counts.both, counts.only_second, counts.only_first, counts.neither)
    one, other = paired_difference(counts), paired_difference(swapped)
    assert one.low is not None
    assert other.high is not None
    assert one.low == pytest.approx(-other.high, abs=1e-6)
    assert one.estimate == -other.estimate


def test_perfect_agreement_still_leaves_doubt() -> None:
    interval = paired_difference(PairedCounts(95, 0, 0, 5))
    assert interval.low is not None
    assert (interval.estimate, interval.low) == (0.0, pytest.approx(-0.0370, abs=1e-4))
    assert interval.spread is not None
    assert interval.spread > 0


@pytest.mark.parametrize(("total", "gain", "loss"), [(200, 0.01, 0.03), (500, 0.02, 0.02), (1000, 0.02, 0.04)])
def test_the_paired_interval_covers_the_truth(total: int, gain: float, loss: float) -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(total, [0.8, loss, gain, 0.2 - loss - gain], size=1000)
    intervals = [paired_difference(PairedCounts(*map(int, draw))) for draw in draws]
    covered = np.mean([i.low <= loss - gain <= i.high for i in intervals])  # type: ignore[operator]
    assert 0.93 <= covered <= 0.97


def test_the_number_of_units_by_hand() -> None:
    """t(15; 97.5 %) = 2.1314 and t(15; 96 %) = 1.8777, of a table; the last term is (1.9600 + 1.7507)² / 2 = 6.88."""
    pilot = Interval(0.0, -1.0, 1.0, 16, 0.02)
    assert units_needed(pilot, 0.01) == math.ceil((4.0091 * 2) ** 2 + 6.88) == 72


def test_the_recommended_number_of_windows_decides() -> None:
    """A pilot of 16 windows recommends; then no loss passes and a loss of twice the limit fails, in 19 of 20 runs."""
    rng = np.random.default_rng(0)
    spread, limit = 0.08, 0.05
    passed, failed = [], []
    for _ in range(1000):
        needed = units_needed(mean_interval(rng.normal(0, spread, 16)), limit)
        high = mean_interval(rng.normal(0, spread, needed)).high
        low = mean_interval(rng.normal(2 * limit, spread, needed)).low
        passed.append(high <= limit)  # type: ignore[operator]
        failed.append(low > limit)  # type: ignore[operator]
    assert 0.94 <= np.mean(passed) <= 0.98
    assert 0.94 <= np.mean(failed) <= 0.98


@pytest.mark.parametrize(("accuracy", "chance"), [(0.6, 0.5), (0.55, 0.5), (0.9, 0.8), (1.0, 0.9), (0.3, 0.25)])
def test_so_many_examples_tell_a_classifier_from_chance(accuracy: float, chance: float) -> None:
    """Exactly: the probability that the lowest count whose interval is above chance, or more, are right."""
    total = examples_above_chance(accuracy, chance)
    counts = range(total + 1)
    least = next(count for count in counts if (proportion_interval(count, total).low or 0.0) > chance)
    assert 0.94 < stats.binom.sf(least - 1, total, accuracy) <= 1
    assert stats.binom.sf(least - 1, total, chance) < 0.03
