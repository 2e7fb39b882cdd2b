"""What a classifier gets right, against the baseline on the same examples.

Shape suffixes: E examples, L labels, C different outcomes (true label, answers of both), S resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glmquant.evaluation.statistics import (
    Interval,
    PairedCounts,
    bootstrap_interval,
    mcnemar,
    paired_difference,
    proportion_interval,
    resampled_counts,
)

SHOWN_CHANGES = 8
SHOWN_CHARACTERS = 300

Indices = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """A labeled set, as far as results need it.

    Attributes:
        answers: index of each example's true label.
        num_truncated: examples whose text was cut to fit the model.
    """

    name: str
    labels: tuple[str, ...]
    answers: tuple[int, ...]
    texts: tuple[str, ...]
    num_truncated: int = 0


@dataclass(frozen=True)
class ClassQuality:
    """One class: precision, recall and F1 are 0 where undefined; ``support`` counts its examples."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassifierQuality:
    """A classifier's results. ``confusion[true][predicted]`` counts examples, in the order of the task's labels.

    ``macro_f1`` is the mean F1 over classes that occur, as a label or as a prediction.
    """

    accuracy: float
    macro_f1: float
    classes: tuple[ClassQuality, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ChangedAnswer:
    """An example that the two models answer differently; a long text is shown up to its 300th character.

    ``shift``: how much the candidate's log-odds of the true label against the best other are below the baseline's.
    """

    text: str
    truth: str
    baseline: str
    candidate: str
    shift: float


@dataclass(frozen=True)
class TaskResult:
    """Candidate against baseline on a labeled set.

    Attributes:
        num_truncated: examples whose text was cut to fit the model.
        accuracy, macro_f1: the candidate's, with intervals; units are examples.
        accuracy_drop, macro_f1_drop: the baseline's less the candidate's. The first interval is Tango's, that of F1 a
            paired bootstrap's, which has no width where both always answer alike.
        pairs: examples by who is right; the first is the baseline.
        mcnemar_p: exact two-sided p-value of equal accuracy.
        same_answer: share of examples that both give the same label.
        majority: share of the commonest label, what always guessing it would score.
        near_chance: the baseline's accuracy is not above ``majority`` at 95 % confidence: then the comparison says
            nothing about quantization.
        answers: each example's true label, the baseline's answer and the candidate's, as indices of ``labels``.
        changed: the examples that lost most, at most eight; those right before and wrong now come first.
    """

    name: str
    labels: tuple[str, ...]
    num_examples: int
    num_truncated: int
    baseline: ClassifierQuality
    candidate: ClassifierQuality
    accuracy: Interval
    accuracy_drop: Interval
    macro_f1: Interval
    macro_f1_drop: Interval
    pairs: PairedCounts
    mcnemar_p: float
    same_answer: float
    majority: float
    near_chance: bool
    answers: tuple[tuple[int, int, int], ...]
    changed: tuple[ChangedAnswer, ...]


def compare(truth: Truth, baseline_EL: Scores, candidate_EL: Scores) -> TaskResult:
    """The result, from both sides' scores of every label, higher is better; of equal scores the first label wins."""
    labels, right_E = truth.labels, np.array(truth.answers)
    first_E, second_E = baseline_EL.argmax(1), candidate_EL.argmax(1)
    pairs = paired_counts(first_E == right_E, second_E == right_E)
    macro_f1, macro_f1_drop = macro_f1_intervals(right_E, first_E, second_E, len(labels))
    majority = float(np.bincount(right_E).max() / len(right_E))
    lowest = proportion_interval(pairs.both + pairs.only_first, pairs.total).low
    return TaskResult(
        name=truth.name,
        labels=labels,
        num_examples=len(right_E),
        num_truncated=truth.num_truncated,
        baseline=_quality(labels, right_E, first_E),
        candidate=_quality(labels, right_E, second_E),
        accuracy=proportion_interval(pairs.both + pairs.only_second, pairs.total),
        accuracy_drop=paired_difference(pairs),
        macro_f1=macro_f1,
        macro_f1_drop=macro_f1_drop,
        pairs=pairs,
        mcnemar_p=mcnemar(pairs),
        same_answer=float((first_E == second_E).mean()),
        majority=majority,
        near_chance=lowest is not None and lowest <= majority,
        answers=tuple(zip(right_E.tolist(), first_E.tolist(), second_E.tolist(), strict=True)),
        changed=_changed(truth, baseline_EL, candidate_EL),
    )


def paired_counts(first_right_E: NDArray[np.bool_], second_right_E: NDArray[np.bool_]) -> PairedCounts:
    """How often two classifiers are right on the same examples."""
    return PairedCounts(
        both=int((first_right_E & second_right_E).sum()),
        only_first=int((first_right_E & ~second_right_E).sum()),
        only_second=int((~first_right_E & second_right_E).sum()),
        neither=int((~first_right_E & ~second_right_E).sum()),
    )


def macro_f1_intervals(truth_E: Indices, first_E: Indices, second_E: Indices, size: int) -> tuple[Interval, Interval]:
    """The second classifier's macro F1, and the first's less it: 95 % intervals by a paired bootstrap over examples.

    The standard error of 2,000 resamples with a fixed seed (B. Efron, Annals of Statistics 7, 1979, 1-26).
    """
    codes_C, counts_C = np.unique((truth_E * size + first_E) * size + second_E, return_counts=True)
    truth_C, first_C, second_C = codes_C // size**2, codes_C // size % size, codes_C % size
    draws_SC = np.concatenate([counts_C[None], resampled_counts(counts_C)])
    first_S, second_S = (_macro_f1(draws_SC, truth_C, answer_C, size) for answer_C in (first_C, second_C))
    units, drop_S = len(truth_E), first_S - second_S
    return (
        bootstrap_interval(second_S[0], second_S[1:], units, 0.0, 1.0),
        bootstrap_interval(drop_S[0], drop_S[1:], units, -1.0, 1.0),
    )


def _macro_f1(counts_SC: Indices, truth_C: Indices, answer_C: Indices, size: int) -> Scores:
    labels_L = np.arange(size)
    true_CL, answered_CL = truth_C[:, None] == labels_L, answer_C[:, None] == labels_L
    hits_SL, wholes_SL = counts_SC @ (true_CL & answered_CL), counts_SC @ (true_CL.astype(int) + answered_CL)
    f1_SL = np.divide(2 * hits_SL, wholes_SL, out=np.zeros(wholes_SL.shape), where=wholes_SL > 0)
    result: Scores = f1_SL.sum(1) / (wholes_SL > 0).sum(1)
    return result


def _changed(truth: Truth, baseline_EL: Scores, candidate_EL: Scores) -> tuple[ChangedAnswer, ...]:
    first_E, second_E = baseline_EL.argmax(1), candidate_EL.argmax(1)
    right_E = np.array(truth.answers)
    shift_E = _odds(baseline_EL, right_E) - _odds(candidate_EL, right_E)
    order = sorted(np.flatnonzero(first_E != second_E).tolist(), key=lambda e: (first_E[e] != right_E[e], -shift_E[e]))
    return tuple(
        ChangedAnswer(
            truth.texts[e][:SHOWN_CHARACTERS],
            truth.labels[right_E[e]],
            truth.labels[first_E[e]],
            truth.labels[second_E[e]],
            float(shift_E[e]),
        )
        for e in order[:SHOWN_CHANGES]
    )


def _odds(scores_EL: Scores, right_E: Indices) -> Scores:
    rows = np.arange(len(right_E))
    others_EL = scores_EL.copy()
    others_EL[rows, right_E] = -np.inf
    result: Scores = scores_EL[rows, right_E] - others_EL.max(1)
    return result


def _quality(labels: Sequence[str], truth_E: NDArray[np.int64], predicted_E: NDArray[np.int64]) -> ClassifierQuality:
    size = len(labels)
    confusion = np.bincount(truth_E * size + predicted_E, minlength=size * size).reshape(size, size)
    hits, support, guesses = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall = (_ratios(hits, whole) for whole in (guesses, support))
    f1 = _ratios(2 * hits, guesses + support)
    columns = (x.tolist() for x in (precision, recall, f1, support))
    return ClassifierQuality(
        accuracy=float(hits.sum() / len(truth_E)),
        macro_f1=float(f1[guesses + support > 0].mean()),
        classes=tuple(ClassQuality(*row) for row in zip(labels, *columns, strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _ratios(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0)
