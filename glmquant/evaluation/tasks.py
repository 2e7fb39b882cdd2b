"""Classification metrics of the candidate and the baseline on the same examples.

Shape suffixes: I examples, L labels, O different outcomes (true label, predictions of both), S resamples.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from glmquant.core.several import Several
from glmquant.evaluation.statistics import (
    Interval,
    PairedCounts,
    bootstrap_interval,
    examples_above_chance,
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
    """The labeled examples of a task.

    Attributes:
        answers: index of each example's true label.
        num_truncated: examples whose text was truncated to the context length.
    """

    name: str
    labels: Several[str]
    answers: Several[int]
    texts: Several[str]
    num_truncated: int = 0

    @property
    def sha256(self) -> str:
        """Of labels, answers and texts."""
        values = json.dumps([self.labels, self.answers, self.texts], ensure_ascii=True)
        return hashlib.sha256(values.encode()).hexdigest()


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
    classes: Several[ClassQuality] = field(repr=False)
    confusion: Several[Several[int]] = field(repr=False)


@dataclass(frozen=True)
class ChangedAnswer:
    """An example with different predictions; a long text is cut after 300 characters.

    ``shift``: the baseline's log-odds of the true label against the best other minus the candidate's.
    """

    text: str
    truth: str
    baseline: str
    candidate: str
    shift: float


@dataclass(frozen=True)
class TaskResult:
    """Candidate against baseline on labeled examples.

    Attributes:
        num_truncated: examples whose text was truncated to the context length.
        accuracy, macro_f1: the candidate's, with intervals; units are examples.
        accuracy_drop, macro_f1_drop: the baseline's minus the candidate's. The first interval is Tango's, that of F1 a
            paired bootstrap's, which has no width where all predictions agree.
        pairs: examples by which model is correct; the first is the baseline.
        mcnemar_p: exact two-sided p-value of equal accuracy.
        same_answer: share of examples with the same prediction.
        majority: share of the most frequent label: the accuracy of a majority-class classifier.
        near_chance: the baseline's accuracy is not above ``majority`` at 95 % confidence: then the comparison cannot
            measure quantization.
        answers: each example's true label and the predictions of baseline and candidate, as indices of ``labels``.
        changed: at most eight predictions that changed, the largest shift first; correct ones that became wrong lead.
        sha256: of the :class:`Truth`; None in reports of earlier releases.
    """

    name: str
    labels: Several[str]
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
    answers: Several[tuple[int, int, int]] = field(repr=False)
    changed: Several[ChangedAnswer] = field(repr=False)
    sha256: str | None = None

    @property
    def why_not_judged(self) -> str | None:
        """Why no limit on this task says anything about quantization; None where one does."""
        if self.majority == 1.0:
            return "all examples have the same label, so this task cannot measure quantization"
        if self.near_chance:
            reason = "the baseline is not better than majority-class guessing, so this task cannot measure quantization"
            return reason + self._examples_wanted
        return None

    @property
    def _examples_wanted(self) -> str:
        if self.baseline.accuracy <= self.majority:
            return ""
        wanted = examples_above_chance(self.baseline.accuracy, self.majority)
        accuracy = f"{self.baseline.accuracy:.1%}"
        return f": {self.num_examples:,} examples measured, about {wanted:,} needed at its accuracy of {accuracy}"


def compare(truth: Truth, baseline_IL: Scores, candidate_IL: Scores) -> TaskResult:
    """The result, from both models' scores of every label, higher is better; of equal scores the first label wins."""
    labels, right_I = truth.labels, np.array(truth.answers)
    first_I, second_I = baseline_IL.argmax(1), candidate_IL.argmax(1)
    pairs = paired_counts(first_I == right_I, second_I == right_I)
    macro_f1, macro_f1_drop = macro_f1_intervals(right_I, first_I, second_I, len(labels))
    majority = float(np.bincount(right_I).max() / len(right_I))
    lowest = proportion_interval(pairs.both + pairs.only_first, pairs.total).low
    return TaskResult(
        name=truth.name,
        labels=labels,
        num_examples=len(right_I),
        num_truncated=truth.num_truncated,
        baseline=_quality(labels, right_I, first_I),
        candidate=_quality(labels, right_I, second_I),
        accuracy=proportion_interval(pairs.both + pairs.only_second, pairs.total),
        accuracy_drop=paired_difference(pairs),
        macro_f1=macro_f1,
        macro_f1_drop=macro_f1_drop,
        pairs=pairs,
        mcnemar_p=mcnemar(pairs),
        same_answer=float((first_I == second_I).mean()),
        majority=majority,
        near_chance=lowest is not None and lowest <= majority,
        answers=tuple(zip(right_I.tolist(), first_I.tolist(), second_I.tolist(), strict=True)),
        changed=_changed(truth, baseline_IL, candidate_IL),
        sha256=truth.sha256,
    )


def paired_counts(first_right_I: NDArray[np.bool_], second_right_I: NDArray[np.bool_]) -> PairedCounts:
    """Correct predictions of two classifiers on the same examples, counted jointly."""
    return PairedCounts(
        both=int((first_right_I & second_right_I).sum()),
        only_first=int((first_right_I & ~second_right_I).sum()),
        only_second=int((~first_right_I & second_right_I).sum()),
        neither=int((~first_right_I & ~second_right_I).sum()),
    )


def macro_f1_intervals(truth_I: Indices, first_I: Indices, second_I: Indices, size: int) -> tuple[Interval, Interval]:
    """The second classifier's macro F1, and the first's minus it: 95 % intervals by a paired bootstrap over examples.

    The standard error of 2,000 resamples with a fixed seed (B. Efron, Annals of Statistics 7, 1979, 1-26).
    """
    codes_O, counts_O = np.unique((truth_I * size + first_I) * size + second_I, return_counts=True)
    truth_O, first_O, second_O = codes_O // size**2, codes_O // size % size, codes_O % size
    draws_SO = np.concatenate([counts_O[None], resampled_counts(counts_O)])
    first_S, second_S = (_macro_f1(draws_SO, truth_O, answer_O, size) for answer_O in (first_O, second_O))
    units, drop_S = len(truth_I), first_S - second_S
    return (
        bootstrap_interval(second_S[0], second_S[1:], units, 0.0, 1.0),
        bootstrap_interval(drop_S[0], drop_S[1:], units, -1.0, 1.0),
    )


def _macro_f1(counts_SO: Indices, truth_O: Indices, answer_O: Indices, size: int) -> Scores:
    labels_L = np.arange(size)
    true_OL, answered_OL = truth_O[:, None] == labels_L, answer_O[:, None] == labels_L
    hits_SL, wholes_SL = counts_SO @ (true_OL & answered_OL), counts_SO @ (true_OL.astype(int) + answered_OL)
    f1_SL = np.divide(2 * hits_SL, wholes_SL, out=np.zeros(wholes_SL.shape), where=wholes_SL > 0)
    result: Scores = f1_SL.sum(1) / (wholes_SL > 0).sum(1)
    return result


def _changed(truth: Truth, baseline_IL: Scores, candidate_IL: Scores) -> tuple[ChangedAnswer, ...]:
    first_I, second_I = baseline_IL.argmax(1), candidate_IL.argmax(1)
    right_I = np.array(truth.answers)
    shift_I = _odds(baseline_IL, right_I) - _odds(candidate_IL, right_I)
    order = sorted(np.flatnonzero(first_I != second_I).tolist(), key=lambda e: (first_I[e] != right_I[e], -shift_I[e]))
    return tuple(
        ChangedAnswer(
            truth.texts[e][:SHOWN_CHARACTERS],
            truth.labels[right_I[e]],
            truth.labels[first_I[e]],
            truth.labels[second_I[e]],
            float(shift_I[e]),
        )
        for e in order[:SHOWN_CHANGES]
    )


def _odds(scores_IL: Scores, right_I: Indices) -> Scores:
    rows = np.arange(len(right_I))
    others_IL = scores_IL.copy()
    others_IL[rows, right_I] = -np.inf
    result: Scores = scores_IL[rows, right_I] - others_IL.max(1)
    return result


def _quality(labels: Sequence[str], truth_I: NDArray[np.int64], predicted_I: NDArray[np.int64]) -> ClassifierQuality:
    size = len(labels)
    confusion = np.bincount(truth_I * size + predicted_I, minlength=size * size).reshape(size, size)
    hits, support, guesses = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall = (_ratios(hits, whole) for whole in (guesses, support))
    f1 = _ratios(2 * hits, guesses + support)
    columns = (x.tolist() for x in (precision, recall, f1, support))
    return ClassifierQuality(
        accuracy=float(hits.sum() / len(truth_I)),
        macro_f1=float(f1[guesses + support > 0].mean()),
        classes=tuple(ClassQuality(*row) for row in zip(labels, *columns, strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def _ratios(parts: NDArray[np.int64], wholes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(parts, wholes, out=np.zeros(len(parts)), where=wholes > 0)
