"""Perplexity, KL divergence and top-1 agreement against the baseline, from logits on the same tokens.

Shape suffixes: R scored tokens (rows of logits), V vocabulary, W windows.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glmquant.core.several import Several
from glmquant.errors import CheckError
from glmquant.evaluation.source import Logits
from glmquant.evaluation.statistics import Interval, mean_interval, ratio_interval

LOGITS_AT_ONCE = 1 << 17
SHOWN_TOKENS = 8

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenScores:
    """Scores of both models for each scored token of a window; float64 ``[R]``, natural logarithms.

    Attributes:
        baseline_nll, candidate_nll: negative log-likelihood of the next token of the text.
        kl: KL divergence, ``KL(baseline || candidate)``, in nats.
        same_top: top-1 agreement: 1 where both rank the same token first, else 0.
    """

    baseline_nll: Floats
    candidate_nll: Floats
    kl: Floats
    same_top: Floats


@dataclass(frozen=True)
class Guess:
    """A token's text and the probability a model gives it."""

    token: str
    probability: float


@dataclass(frozen=True)
class WorstToken:
    """The token of a window with the largest KL divergence.

    Attributes:
        before: the text before it, its last tokens.
        actual: the next token of the text.
        kl: KL divergence at this token, in nats.
        baseline, candidate: the most likely next tokens of each model.
        baseline_probability, candidate_probability: of ``actual``.
    """

    text: str
    before: str
    actual: str
    kl: float
    baseline: Several[Guess]
    candidate: Several[Guess]
    baseline_probability: float
    candidate_probability: float


@dataclass(frozen=True, eq=False)
class ScoredWindow:
    """A window's scores, the name of its text, the UTF-8 bytes of its scored tokens, and the token with the largest
    divergence, if it was looked up."""

    text: str
    scores: TokenScores
    num_bytes: float
    worst: WorstToken | None = None


@dataclass(frozen=True)
class Perplexity:
    """``exp`` of the mean negative log-likelihood, per token and per UTF-8 byte."""

    per_token: float
    per_byte: float


@dataclass(frozen=True)
class KlSummary:
    """KL divergence in nats over tokens; percentiles interpolate linearly between order statistics."""

    mean: Interval
    median: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class WindowMeans:
    """Means over a window's scored tokens, for plots and for pairing with another report."""

    text: str
    baseline_nll: float
    candidate_nll: float
    kl: float
    same_top: float


@dataclass(frozen=True)
class LanguageMetrics:
    """Candidate against baseline on windows of text. Units of the intervals are windows.

    Attributes:
        texts: names of the texts.
        num_tokens: scored tokens.
        perplexity: the candidate's per token, with its interval.
        perplexity_ratio: the candidate's perplexity over the baseline's.
        top1_agreement: share of tokens for which both models rank the same next token first.
        correct_probability_change: mean change of the probability of the correct next token.
        correct_probability_rms: root mean square of that change.
        worst: the tokens with the largest KL divergence, at most one per window.
    """

    texts: Several[str]
    num_tokens: int
    baseline: Perplexity
    candidate: Perplexity
    perplexity: Interval
    perplexity_ratio: Interval
    kl: KlSummary
    top1_agreement: Interval
    correct_probability_change: Interval
    correct_probability_rms: float
    windows: Several[WindowMeans] = field(repr=False)
    worst: Several[WorstToken] = field(default=(), repr=False)


def score_tokens(baseline_RV: Logits, candidate_RV: Logits, targets_R: NDArray[np.int64]) -> TokenScores:
    """Scores of a window, from the logits that predict each of its scored tokens.

    In float32 with numpy's pairwise sums: relative errors are about 1e-7. A few rows at a time, so that they stay in
    the CPU cache, and on one thread: next to a runtime with its own threads, more of them would only wait. Both sides
    share passes over the logits, so this does not use :mod:`glmquant.core.softmax`.

    Raises:
        CheckError: vocabularies of different sizes, or logits that are not finite.
    """
    if baseline_RV.shape != candidate_RV.shape:
        raise CheckError(
            f"the baseline's logits are {baseline_RV.shape}, the candidate's {candidate_RV.shape}",
            expected="models of one vocabulary",
            hint="use the checkpoint that the bundle was exported from as the baseline",
        )
    step = max(1, LOGITS_AT_ONCE // baseline_RV.shape[1])
    starts = range(0, len(targets_R), step)
    rows = [slice(start, start + step) for start in starts]
    with np.errstate(invalid="ignore"):  # values that are not finite are refused below
        parts = [_score_rows(baseline_RV[some], candidate_RV[some], targets_R[some]) for some in rows]
    return TokenScores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def summarize(windows: Sequence[ScoredWindow]) -> LanguageMetrics:
    """All metrics over windows, of one text or several; every scored token counts alike."""
    baseline, candidate, kl, same = (
        _PerWindow([getattr(window.scores, name) for window in windows])
        for name in ("baseline_nll", "candidate_nll", "kl", "same_top")
    )
    num_bytes = math.fsum(window.num_bytes for window in windows)
    change = _PerWindow([np.exp(-c) - np.exp(-b) for b, c in zip(baseline.rows, candidate.rows, strict=True)])
    log_ratio = _PerWindow([c - b for b, c in zip(baseline.rows, candidate.rows, strict=True)])
    median, p99, p999, largest = np.percentile(kl.tokens, [50, 99, 99.9, 100])
    worst = [window.worst for window in windows if window.worst is not None]
    means = zip(*(each.means_W.tolist() for each in (baseline, candidate, kl, same)), strict=True)
    return LanguageMetrics(
        texts=tuple(dict.fromkeys(window.text for window in windows)),
        num_tokens=baseline.tokens.size,
        baseline=_perplexity(baseline.tokens, num_bytes),
        candidate=_perplexity(candidate.tokens, num_bytes),
        perplexity=ratio_interval(candidate.units()),
        perplexity_ratio=ratio_interval(log_ratio.units()),
        kl=KlSummary(mean_interval(kl.units(), lowest=0), float(median), float(p99), float(p999), float(largest)),
        top1_agreement=mean_interval(same.units(), lowest=0, highest=1),
        correct_probability_change=mean_interval(change.units()),
        correct_probability_rms=float(np.sqrt(np.square(change.tokens).mean())),
        windows=tuple(WindowMeans(window.text, *row) for window, row in zip(windows, means, strict=True)),
        worst=tuple(heapq.nlargest(SHOWN_TOKENS, worst, key=lambda token: token.kl)),
    )


class _PerWindow:
    """A quantity of each scored token: ``rows`` of float64 ``[R]``, R differing where windows do."""

    def __init__(self, rows: Sequence[Floats]) -> None:
        self.rows, self.tokens = rows, np.concatenate(rows)
        self.means_W = np.array([row.mean() for row in rows])

    def units(self) -> Floats:
        """A value for each window, ``[W]``, whose mean is that of all tokens and whose spread gives its interval: where
        windows differ in length, the linearized ratio of sums (Cochran, Sampling Techniques, 1977, 6.3)."""
        counts_W = np.array([len(row) for row in self.rows])
        if (counts_W == counts_W[0]).all():
            return self.means_W
        mean = float(self.tokens.mean())
        units_W: Floats = mean + counts_W / counts_W.mean() * (self.means_W - mean)
        return units_W


def _score_rows(baseline_RV: Logits, candidate_RV: Logits, targets_R: NDArray[np.int64]) -> tuple[Floats, ...]:
    baseline_highest_R, candidate_highest_R = baseline_RV.max(1), candidate_RV.max(1)
    same_top_R = baseline_RV.argmax(1) == candidate_RV.argmax(1)
    weights_RV = baseline_RV - baseline_highest_R[:, None]
    np.exp(weights_RV, out=weights_RV)
    sum_R = weights_RV.sum(1).astype(np.float64)
    baseline_log_R = np.log(sum_R) + baseline_highest_R
    # Σ p_b (log p_b - log p_c), the difference of logits first: two equal models give exactly zero.
    work_RV = baseline_RV - candidate_RV
    work_RV *= weights_RV
    gap_R = work_RV.sum(1) / sum_R
    np.subtract(candidate_RV, candidate_highest_R[:, None], out=work_RV)
    np.exp(work_RV, out=work_RV)
    candidate_log_R = np.log(work_RV.sum(1).astype(np.float64)) + candidate_highest_R
    _require_finite("baseline", baseline_log_R)
    _require_finite("candidate", candidate_log_R)
    kl_R = np.maximum(gap_R - (baseline_log_R - candidate_log_R), 0.0)
    rows = np.arange(len(targets_R))
    baseline_nll_R = baseline_log_R - baseline_RV[rows, targets_R]
    candidate_nll_R = candidate_log_R - candidate_RV[rows, targets_R]
    return baseline_nll_R, candidate_nll_R, kl_R, same_top_R.astype(np.float64)


def _require_finite(side: str, values_R: Floats) -> None:
    if not np.isfinite(values_R).all():
        raise CheckError(
            f"the {side}'s logits are not finite",
            expected="finite numbers",
            hint="if the model runs in float16, a value may have overflowed: export with export.dtype=float32",
        )


def _perplexity(nll: Floats, num_bytes: float) -> Perplexity:
    """Of tokens, float64, one after another."""
    return Perplexity(math.exp(nll.mean()), math.exp(nll.sum() / num_bytes))
