"""Classification by likelihood: the label whose word is the likeliest continuation of the prompt wins.

Shape suffixes: E examples, L labels, R rows of logits, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glmquant.accuracy.source import Logits, Query
from glmquant.accuracy.statistics import Interval, PairedCounts, mcnemar, paired_difference, wilson
from glmquant.data.labelled import Example, LabelledSet, read_labelled
from glmquant.data.tokenizer import Tokenizer
from glmquant.errors import CheckError
from glmquant.recipe.schema import Task

Ids = tuple[int, ...]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Continuation:
    """A label's tokens in one example, and the index of the example's query whose first rows predict them."""

    query: int
    tokens: Ids


@dataclass(frozen=True, eq=False)
class PlannedExample:
    """The queries of an example and, for each label, where in their answers its likelihood stands."""

    queries: tuple[Query, ...]
    continuations: tuple[Continuation, ...]


@dataclass(frozen=True, eq=False)
class TaskPlan:
    """A task, tokenised: what to ask a model, and how to read the answers."""

    name: str
    labelled: LabelledSet
    examples: tuple[PlannedExample, ...]

    @property
    def queries(self) -> list[Query]:
        return [query for example in self.examples for query in example.queries]


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
class TaskResult:
    """Candidate against baseline on a labelled set.

    Attributes:
        accuracy_drop: the baseline's accuracy less the candidate's; its units are examples.
        pairs: examples by who is right; the first is the baseline.
        mcnemar_p: exact two-sided p-value of equal accuracy.
        same_answer: share of examples that both give the same label.
        majority: share of the commonest label, what always guessing it would score.
        near_chance: the baseline's accuracy is not above ``majority`` at 95 % confidence: then the comparison says
            nothing about quantisation.
    """

    name: str
    labels: tuple[str, ...]
    num_examples: int
    baseline: ClassifierQuality
    candidate: ClassifierQuality
    accuracy_drop: Interval
    pairs: PairedCounts
    mcnemar_p: float
    same_answer: float
    majority: float
    near_chance: bool


def plan_task(task: Task, tokenizer: Tokenizer) -> TaskPlan:
    """Reads and tokenises a task's data.

    A label's tokens are those of prompt and word encoded together, from where any label's tokens first leave the
    prompt's, so that a word may merge with the end of the prompt and all labels still continue the same text.

    Raises:
        DataError: data that cannot be read.
        CheckError: labels that the tokenizer cannot tell apart, or an example with nothing before its label.
    """
    labelled = read_labelled(Path(task.data), task.limit, task.labels)
    words = [task.labels.get(label, label) for label in labelled.labels]
    examples = tuple(_plan_example(example, words, task, tokenizer) for example in labelled.examples)
    return TaskPlan(task.name or labelled.name, labelled, examples)


def label_scores(example: PlannedExample, answers: Sequence[Logits]) -> Scores:
    """Log-likelihood of each label's tokens, summed, float64 ``[L]``.

    Raises:
        CheckError: logits that are not finite.
    """
    scores = np.zeros(len(example.continuations))
    for label, continuation in enumerate(example.continuations):
        logits_RV = answers[continuation.query][: len(continuation.tokens)].astype(np.float64)
        highest_R = logits_RV.max(1, keepdims=True)
        sums_R = np.log(np.exp(logits_RV - highest_R).sum(1)) + highest_R[:, 0]
        chosen_R = logits_RV[np.arange(len(logits_RV)), continuation.tokens]
        scores[label] = (chosen_R - sums_R).sum()
    if not np.isfinite(scores).all():
        raise CheckError(
            "a model's logits are not finite",
            expected="finite numbers",
            fix="if the model runs in float16, a value may have overflowed: export it as float32",
        )
    return scores


def compare(plan: TaskPlan, baseline_EL: Scores, candidate_EL: Scores) -> TaskResult:
    """The result, from both sides' :func:`label_scores`; of equal scores the first label wins."""
    labels = plan.labelled.labels
    truth = np.array([labels.index(example.label) for example in plan.labelled.examples])
    first, second = baseline_EL.argmax(1), candidate_EL.argmax(1)
    first_right, second_right = first == truth, second == truth
    pairs = PairedCounts(
        both=int((first_right & second_right).sum()),
        only_first=int((first_right & ~second_right).sum()),
        only_second=int((~first_right & second_right).sum()),
        neither=int((~first_right & ~second_right).sum()),
    )
    majority = float(np.bincount(truth).max() / len(truth))
    return TaskResult(
        name=plan.name,
        labels=labels,
        num_examples=len(truth),
        baseline=_quality(labels, truth, first),
        candidate=_quality(labels, truth, second),
        accuracy_drop=paired_difference(pairs),
        pairs=pairs,
        mcnemar_p=mcnemar(pairs),
        same_answer=float((first == second).mean()),
        majority=majority,
        near_chance=wilson(int(first_right.sum()), len(truth))[0] <= majority,
    )


def _plan_example(example: Example, words: Iterable[str], task: Task, tokenizer: Tokenizer) -> PlannedExample:
    prompt = task.prompt.replace("{text}", example.text)
    context = tuple(tokenizer.encode(prompt))
    whole = [tuple(tokenizer.encode(prompt + word)) for word in words]
    start = min(_common(context, ids) for ids in whole)
    where = f"{task.data}, line {example.line}"
    if len(set(whole)) < len(whole) or min(map(len, whole)) == start:
        raise CheckError(
            "the tokenizer cannot tell the labels' words apart",
            where=where,
            expected="words that end in different tokens",
            fix="give other words in the task's `labels`",
        )
    prefix = tokenizer.prefix_ids
    if len(prefix) + start == 0:
        raise CheckError("there is nothing before the label", where=where, fix="give the task a `prompt` of some words")
    feeds = _feeds(whole)
    queries = tuple(Query(np.array([*prefix, *feed], dtype=np.int64), len(feed) - start + 1) for feed in feeds)
    continuations = tuple(
        Continuation(next(i for i, feed in enumerate(feeds) if _begins(feed, ids[:-1])), ids[start:]) for ids in whole
    )
    return PlannedExample(queries, continuations)


def _feeds(whole: Sequence[Ids]) -> list[Ids]:
    """What a model must read: all but each label's last token, and nothing that another begins with."""
    feeds: list[Ids] = []
    for ids in sorted((ids[:-1] for ids in whole), key=len, reverse=True):
        if not any(_begins(feed, ids) for feed in feeds):
            feeds.append(ids)
    return feeds


def _begins(ids: Ids, start: Ids) -> bool:
    return ids[: len(start)] == start


def _common(first: Ids, second: Ids) -> int:
    """How many tokens two sequences share at their start."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


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
