import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glmquant.errors import CheckError
from glmquant.evaluation import metrics as module
from glmquant.evaluation.metrics import ScoredWindow, TokenScores, score_tokens, summarize


def logits(rows: int = 7, vocabulary: int = 300, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    baseline = (4 * rng.normal(size=(rows, vocabulary))).astype(np.float32)
    return baseline, (baseline + noise * rng.normal(size=baseline.shape)).astype(np.float32)


def log_softmax(row: np.ndarray) -> list[float]:
    """One row, in plain Python floats."""
    values = [float(x) for x in row]
    highest = max(values)
    total = math.log(math.fsum(math.exp(x - highest) for x in values)) + highest
    return [x - total for x in values]


@pytest.mark.parametrize("noise", [5.0, 0.5, 0.05, 0.005])
@pytest.mark.parametrize("vocabulary", [300, 256, 31])
def test_scores_equal_a_plain_loop(noise: float, vocabulary: int) -> None:
    baseline, candidate = logits(vocabulary=vocabulary, noise=noise)
    targets = np.random.default_rng(1).integers(0, vocabulary, len(baseline))
    scores = score_tokens(baseline, candidate, targets)
    for row, target in enumerate(targets):
        b, c = log_softmax(baseline[row]), log_softmax(candidate[row])
        kl = math.fsum(math.exp(x) * (x - y) for x, y in zip(b, c, strict=True))
        assert scores.baseline_nll[row] == pytest.approx(-b[target], rel=1e-6, abs=1e-7)
        assert scores.candidate_nll[row] == pytest.approx(-c[target], rel=1e-6, abs=1e-7)
        assert scores.kl[row] == pytest.approx(kl, rel=1e-4, abs=3e-7)
        assert scores.same_top[row] == (max(range(vocabulary), key=b.__getitem__) == int(np.argmax(candidate[row])))


@given(step=st.integers(1, 5), rows=st.integers(1, 9))
def test_stretches_do_not_matter(step: int, rows: int) -> None:
    baseline, candidate = logits(rows)
    targets = np.arange(rows)
    whole = score_tokens(baseline, candidate, targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOGITS_AT_ONCE", step * 300)
        parts = score_tokens(baseline, candidate, targets)
    for name in ("baseline_nll", "candidate_nll", "kl", "same_top"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-7)


def test_equal_models_differ_by_exactly_nothing() -> None:
    baseline, _ = logits()
    scores = score_tokens(baseline, baseline.copy(), np.arange(7))
    assert np.array_equal(scores.baseline_nll, scores.candidate_nll)
    assert not scores.kl.any()
    assert scores.same_top.all()


def test_no_divergence_is_below_nought() -> None:
    """Of nearly equal models rounding is larger than the divergence; a mean below 0 would pass any limit."""
    baseline, candidate = logits(rows=400, noise=1e-6)
    scores = score_tokens(baseline, candidate, np.zeros(400, np.int64))
    assert (scores.kl >= 0).all()
    assert (scores.kl == 0).any()


def test_a_shifted_model_is_the_same_model() -> None:
    baseline, _ = logits()
    scores = score_tokens(baseline, baseline + np.float32(100), np.arange(7))
    np.testing.assert_allclose(scores.kl, 0, atol=5e-5)  # float32 is 7.6e-6 coarse at 100
    np.testing.assert_allclose(scores.candidate_nll, scores.baseline_nll, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["baseline", "candidate"])
def test_logits_that_are_not_finite_are_refused(value: float, side: str) -> None:
    pair = dict(zip(("baseline", "candidate"), logits(), strict=True))
    pair[side][3, 5] = value
    with pytest.raises(CheckError, match=f"the {side}'s logits are not finite"):
        score_tokens(pair["baseline"], pair["candidate"], np.arange(7))


def test_different_vocabularies_are_refused() -> None:
    baseline, candidate = logits()
    with pytest.raises(CheckError, match="one vocabulary"):
        score_tokens(baseline, candidate[:, :-1], np.arange(7))


def window(text: str, baseline: list[float], candidate: list[float], num_bytes: float) -> ScoredWindow:
    columns = (baseline, candidate, [0.1 * x for x in candidate], [1.0, 0.0])
    return ScoredWindow(text, TokenScores(*(np.array(column) for column in columns)), num_bytes)


def test_the_summary_in_numbers() -> None:
    metrics = summarize([window("en", [1.0, 3.0], [2.0, 3.0], 5), window("zh", [2.0, 2.0], [2.0, 4.0], 11)])
    assert (metrics.texts, metrics.num_tokens) == (("en", "zh"), 4)
    assert metrics.baseline.per_token == pytest.approx(math.exp(2))
    assert metrics.candidate.per_token == pytest.approx(math.exp(11 / 4))
    assert metrics.candidate.per_byte == pytest.approx(math.exp(11 / 16))
    assert metrics.perplexity_ratio.estimate == pytest.approx(math.exp(3 / 4))
    assert metrics.perplexity_ratio.units == 2
    assert metrics.kl.mean.estimate == pytest.approx(0.275)
    assert (metrics.kl.median, metrics.kl.max) == (pytest.approx(0.25), pytest.approx(0.4))
    assert metrics.top1_agreement.estimate == 0.5
    changes = [math.exp(-2) - math.exp(-1), 0, 0, math.exp(-4) - math.exp(-2)]
    assert metrics.correct_probability_change.estimate == pytest.approx(sum(changes) / 4)
    assert metrics.correct_probability_rms == pytest.approx(math.sqrt(sum(x * x for x in changes) / 4))
    assert [(w.text, w.baseline_nll, w.candidate_nll) for w in metrics.windows] == [("en", 2, 2.5), ("zh", 2, 3)]


def test_the_interval_is_paired_and_over_windows() -> None:
    """Windows of very different difficulty, each a little worse: unpaired, nothing could be said."""
    rng = np.random.default_rng(0)
    windows = []
    for level in (1.0, 2.0, 4.0, 7.0):
        baseline = level + rng.normal(size=2) * 0.01
        windows.append(window("a", baseline.tolist(), (baseline + 0.02 + rng.normal(size=2) * 0.001).tolist(), 4))
    interval = summarize(windows).perplexity_ratio
    assert interval.low is not None
    assert interval.high is not None
    assert 1.01 < interval.low < interval.estimate < interval.high < 1.03


def scored(lengths: list[int], seed: int = 0) -> list[ScoredWindow]:
    """Windows whose tokens' scores differ from window to window."""
    rng = np.random.default_rng(seed)
    windows = []
    for length in lengths:
        level = rng.normal()
        rows = [np.abs(level + rng.normal(size=length)) for _ in range(3)]
        windows.append(ScoredWindow("t", TokenScores(*rows, (rng.random(length) > 0.3).astype(float)), 2.0 * length))
    return windows


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_every_token_counts_alike_whatever_its_window(lengths: list[int]) -> None:
    windows = scored(lengths)
    metrics = summarize(windows)
    for name, interval in (("kl", metrics.kl.mean), ("same_top", metrics.top1_agreement)):
        tokens = np.concatenate([getattr(window.scores, name) for window in windows])
        assert interval.estimate == pytest.approx(tokens.mean())
        assert interval.units == len(windows)
    nll = np.concatenate([window.scores.candidate_nll for window in windows])
    assert metrics.candidate.per_token == pytest.approx(math.exp(nll.mean()))
    assert metrics.perplexity.estimate == pytest.approx(metrics.candidate.per_token)
    assert metrics.candidate.per_byte == pytest.approx(math.exp(nll.sum() / (2 * sum(lengths))))


def test_the_spread_is_that_of_a_ratio_of_sums() -> None:
    windows = scored(list(range(1, 41)))
    counts = np.array([len(window.scores.kl) for window in windows])
    sums = np.array([window.scores.kl.sum() for window in windows])
    interval = summarize(windows).kl.mean
    residuals = sums - interval.estimate * counts
    error = math.sqrt((residuals**2).sum() / (len(sums) - 1) / len(sums)) / counts.mean()
    assert interval.spread is not None
    assert interval.spread / math.sqrt(len(sums)) == pytest.approx(error)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(sums), (4000, len(sums)))
    assert error == pytest.approx(float(np.std(sums[picks].sum(1) / counts[picks].sum(1))), rel=0.2)
