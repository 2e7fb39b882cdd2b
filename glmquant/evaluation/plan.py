"""Tasks, tokenized: the queries of each example and how the answers' log-likelihoods follow from the logits.

Shape suffixes: I examples, L labels, R rows of logits, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glmquant.core.protocols import Tokenizer
from glmquant.core.softmax import logsumexp
from glmquant.data.choices import LETTERS, Question, read_questions
from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.errors import CheckError
from glmquant.evaluation.source import Logits, Query
from glmquant.evaluation.tasks import Truth
from glmquant.recipe.check_options import PLACEHOLDER, Task

SHOTS_KEYS = {
    "encoding": "the task's few_shot.encoding as",
    "text_field": "the task's text_field as",
    "label_field": "the task's label_field as",
}
SHOTS_END = "\n\n"

Ids = tuple[int, ...]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Continuation:
    """An answer's tokens in one example, the index of the query whose first rows of logits predict them, and the
    divisor of their log-likelihood."""

    query: int
    tokens: Ids
    divisor: int = 1


@dataclass(frozen=True, eq=False)
class PlannedExample:
    """The queries of an example, and one continuation per possible answer."""

    queries: tuple[Query, ...]
    continuations: tuple[Continuation, ...]


@dataclass(frozen=True, eq=False)
class TaskPlan:
    """A task, tokenized."""

    truth: Truth
    examples: tuple[PlannedExample, ...]
    remove_prior: bool = False

    @property
    def queries(self) -> list[Query]:
        return [query for example in self.examples for query in example.queries]


@dataclass(frozen=True)
class _Item:
    """One example before tokenization: the part of the prompt that may be truncated, the rest, the possible answers."""

    text: str
    choices: str
    words: tuple[str, ...]
    answer: int
    place: str


def plan_task(task: Task, tokenizer: Tokenizer, max_length: int | None = None) -> TaskPlan:
    """Read and tokenize a task's data.

    Prompt and answer are encoded together, since a word may merge with the end of the prompt. An answer's tokens start
    where any answer's encoding first differs from the prompt's, so that all answers continue the same tokens.

    Args:
        max_length: the context length in tokens. The text of a longer example is truncated at its end (a question: at
            its beginning) and counted in ``truth.num_truncated``; prompt, few-shot examples and answers stay whole.

    Raises:
        DataError: data that cannot be read.
        CheckError: answers with the same tokens, an example with nothing before its answer, or one that does not fit
            ``max_length`` even without its text.
    """
    reading = Reading("check.tasks", task.encoding, task.text_field, task.label_field)
    labels, items = _read(task, task.data, task.limit, task.labels, reading)
    shots = _shots(task, labels)
    planner = _Planner(task, tokenizer, shots, max_length)
    examples = tuple(planner.plan(item) for item in items)
    truth = Truth(
        name=task.name or Path(task.data).name,
        labels=labels,
        answers=tuple(item.answer for item in items),
        texts=tuple(item.text for item in items),
        num_truncated=planner.num_truncated,
    )
    return TaskPlan(truth, examples, task.label_prior == "remove")


def label_scores(example: PlannedExample, answers: Sequence[Logits], num_labels: int) -> Scores:
    """Log-likelihood of each answer's tokens, summed and divided by its divisor, float64 ``[L]``; -inf beyond the
    example's own answers.

    Raises:
        CheckError: logits that are not finite.
    """
    by_query = [query_scores(example, query, logits_RV, num_labels) for query, logits_RV in enumerate(answers)]
    scores_L: Scores = np.max(by_query, axis=0)
    return scores_L


def query_scores(example: PlannedExample, query: int, logits_RV: Logits, num_labels: int) -> Scores:
    """The scores that one query of an example gives, float64 ``[L]``; -inf for answers that others continue.

    Raises:
        CheckError: logits that are not finite.
    """
    scores_L = np.full(num_labels, -np.inf)
    for label, continuation in enumerate(example.continuations):
        if continuation.query == query:
            answer_RV = logits_RV[: len(continuation.tokens)].astype(np.float64)
            chosen_R = answer_RV[np.arange(len(answer_RV)), continuation.tokens]
            scores_L[label] = (chosen_R - logsumexp(answer_RV)).sum() / continuation.divisor
            _require_finite(scores_L[label])
    return scores_L


def _require_finite(score: float) -> None:
    if not np.isfinite(score):
        raise CheckError(
            "a model's logits are not finite",
            expected="finite numbers",
            hint="if the model runs in float16, a value may have overflowed: export with export.dtype=float32",
        )


def without_prior(scores_IL: Scores) -> Scores:
    """Scores with each label's mean probability over all examples removed (batch calibration, arXiv:2309.17249).

    Removes the model's bias toward a label regardless of the text. The examples' true labels are not used.
    """
    log_IL = scores_IL - np.logaddexp.reduce(scores_IL, axis=1, keepdims=True)
    prior_L = np.logaddexp.reduce(log_IL, axis=0) - np.log(len(log_IL))
    # A letter that no question offers stays impossible.
    return np.where(np.isfinite(log_IL), log_IL - np.where(np.isfinite(prior_L), prior_L, 0.0), -np.inf)


class _Planner:
    def __init__(self, task: Task, tokenizer: Tokenizer, shots: str, max_length: int | None) -> None:
        self._task, self._tokenizer, self._shots, self._max_length = task, tokenizer, shots, max_length
        self.num_truncated = 0

    def plan(self, item: _Item) -> PlannedExample:
        context, whole = self._fitted(item)
        start = min(_common(context, ids) for ids in whole)
        where = f"{self._task.data}, {item.place}"
        if len(set(whole)) < len(whole) or min(map(len, whole)) == start:
            raise CheckError(
                "two answers have the same tokens",
                where=where,
                expected="answers that the tokenizer encodes differently",
                hint="change the words in the task's `labels`, or the choices",
            )
        prefix = self._tokenizer.prefix_ids
        if len(prefix) + start == 0:
            raise CheckError("the answer has no prompt before it", where=where, hint="set the task's `prompt`")
        feeds = _feeds(whole)
        queries = tuple(Query(np.array([*prefix, *feed], dtype=np.int64), len(feed) - start + 1) for feed in feeds)
        normalized = self._task.scoring == "length_normalized"
        continuations = tuple(
            Continuation(
                next(i for i, feed in enumerate(feeds) if _begins(feed, ids[:-1])),
                ids[start:],
                len(word.encode()) if normalized else 1,
            )
            for ids, word in zip(whole, item.words, strict=True)
        )
        return PlannedExample(queries, continuations)

    def _fitted(self, item: _Item) -> tuple[Ids, list[Ids]]:
        """The tokens of the prompt, and of the prompt with each answer, truncated to fit."""
        context, whole = self._encode(item, item.text)
        if self._fits(whole):
            return context, whole
        keeps_end = self._task.kind == "multiple_choice"

        def cut(kept: int) -> str:
            return item.text[len(item.text) - kept :] if keeps_end else item.text[:kept]

        kept = _most(len(item.text), lambda kept: self._fits(self._encode(item, cut(kept))[1]))
        if kept == 0:
            raise CheckError(
                "the prompt leaves no room for the text",
                where=f"{self._task.data}, {item.place}",
                expected=f"at most {self._max_length} tokens, prompt and answer included",
                hint="shorten the prompt, lower few_shot.count, or export with a larger export.max_length",
            )
        self.num_truncated += 1
        return self._encode(item, cut(kept))

    def _fits(self, whole: Sequence[Ids]) -> bool:
        longest = max(map(len, whole)) - 1 + len(self._tokenizer.prefix_ids)
        return self._max_length is None or longest <= self._max_length

    def _encode(self, item: _Item, text: str) -> tuple[Ids, list[Ids]]:
        prompt = self._shots + _prompt(self._task, text, item.choices)
        return tuple(self._tokenizer.encode(prompt)), [tuple(self._tokenizer.encode(prompt + w)) for w in item.words]


def _read(
    task: Task, data: str, limit: int | None, known: Mapping[str, str], reading: Reading
) -> tuple[tuple[str, ...], list[_Item]]:
    if task.kind == "multiple_choice":
        questions = read_questions(Path(data), limit, reading)
        labels = tuple(LETTERS[: max(len(question.choices) for question in questions)])
        return labels, [_choice_item(question, task.by_letter) for question in questions]
    labeled = read_labeled(Path(data), limit, known, reading)
    words = tuple(task.labels.get(label, label) for label in labeled.labels)
    items = [_Item(e.text, "", words, labeled.labels.index(e.label), e.place) for e in labeled.examples]
    return labeled.labels, items


def _choice_item(question: Question, by_letter: bool) -> _Item:
    letters = LETTERS[: len(question.choices)]
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters, question.choices, strict=True))
    words = tuple(letters) if by_letter else question.choices
    return _Item(question.question, listed, words, question.answer, question.place)


def _shots(task: Task, labels: Sequence[str]) -> str:
    if task.few_shot is None:
        return ""
    known = task.labels or {label: label for label in labels}
    encoding = task.few_shot.encoding or task.encoding
    reading = Reading("check.tasks", encoding, task.text_field, task.label_field, SHOTS_KEYS)
    _, items = _read(task, task.few_shot.data, task.few_shot.count, known, reading)
    return "".join(_prompt(task, item.text, item.choices) + item.words[item.answer] + SHOTS_END for item in items)


def _prompt(task: Task, text: str, choices: str) -> str:
    # The choices first: a question may hold the placeholder's letters, and is put in as it is.
    before, after = task.template.split(PLACEHOLDER[task.kind])
    return before.replace("{choices}", choices) + text + after.replace("{choices}", choices)


def _most(highest: int, fits: Callable[[int], bool]) -> int:
    """The largest number below ``highest`` that fits, by bisection; 0 where none does."""
    low, high = 0, highest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _feeds(whole: Sequence[Ids]) -> list[Ids]:
    """What the model must read: each answer without its last token, unless it is the beginning of another."""
    feeds: list[Ids] = []
    for ids in sorted((ids[:-1] for ids in whole), key=len, reverse=True):
        if not any(_begins(feed, ids) for feed in feeds):
            feeds.append(ids)
    return feeds


def _begins(ids: Ids, start: Ids) -> bool:
    return ids[: len(start)] == start


def _common(first: Ids, second: Ids) -> int:
    """Length of the common prefix."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
