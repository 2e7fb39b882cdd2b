"""Checking an exported classifier against the checkpoint it comes from.

Shape suffixes: E examples, D hidden, L labels.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glmquant.core.protocols import Tokenizer
from glmquant.core.ranks import ALONE, Ranks
from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.data.sequences import EncodedTexts, encode_texts
from glmquant.errors import CheckError
from glmquant.evaluation.baseline_cache import Answers, AnswerStore
from glmquant.evaluation.gate import judge, overall
from glmquant.evaluation.regression import require_pairable
from glmquant.evaluation.results import SCHEMA, AccuracyReport, Setting
from glmquant.evaluation.source import Query, digest_of
from glmquant.evaluation.tasks import TaskResult, Truth, compare
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.progress import Progress, silent
from glmquant.recipe.check_options import CheckOptions, Task
from glmquant.runtime.classify import OnnxClassifier
from glmquant.streaming.activations import ActivationStore
from glmquant.streaming.features import pooled_features

log = logging.getLogger("glmquant")


@dataclass(frozen=True, eq=False)
class ClassifierTask:
    """The labeled texts of a task, tokenized; ``sha256`` is that of their :class:`glmquant.data.labeled.LabeledSet`."""

    truth: Truth
    encoded: EncodedTexts
    sha256: str


def read_classifier_tasks(
    options: CheckOptions, labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> tuple[ClassifierTask, ...]:
    """Read and tokenize what a classifier of ``labels`` is checked on; a text longer than ``max_length`` loses its end.

    Raises:
        DataError: data that cannot be read, an empty text, or a label that the classifier does not know.
        CheckError: no task, or a text or a kind of task that only a language model can be measured on.
    """
    if options.text or not options.tasks:
        raise CheckError(
            "a classifier is checked on labeled texts" + (", and there is no task" if not options.tasks else " only"),
            where="check.text" if options.text else "check.tasks",
            expected="tasks whose data are lines of text and label",
            hint="name them in check.tasks, and nothing in check.text; to `check`, give them as `tasks`",
        )
    return tuple(_read(task, tuple(labels), tokenizer, max_length) for task in options.tasks)


def evaluate_classifier(
    candidate: OnnxClassifier,
    baseline: ModelSource,
    tokenizer: Tokenizer,
    options: CheckOptions,
    setting: Setting,
    progress: Progress = silent,
    store: ActivationStore | None = None,
    against: AccuracyReport | None = None,
    kept: AnswerStore | None = None,
    trained_on: Collection[str] = (),
    ranks: Ranks = ALONE,
) -> AccuracyReport:
    """Measures the candidate against the baseline, computed in float32, on the tasks of ``options``.

    Both read the same tokens; a text longer than the candidate takes loses its end, and the report counts it.

    Args:
        kept: has, or takes, what the baseline pools of all texts.
        against: an earlier report that this one is to be compared with.
        trained_on: sha256 of the labeled texts that the classifier was trained on.
        ranks: who share the texts; all make the same report.

    Raises:
        DataError, CheckError: see :func:`read_classifier_tasks`; CheckError also for two classifiers of different
            labels, and where ``against`` was measured on other data.
    """
    if candidate.labels != baseline.config.labels:
        raise CheckError(
            f"the bundle's labels are {list(candidate.labels)}",
            expected=f"those of the baseline, in its order: {list(baseline.config.labels)}",
            hint="give the checkpoint that the bundle was exported from",
        )
    material = read_classifier_tasks(options, candidate.labels, tokenizer, candidate.max_length)
    if against is not None:
        require_pairable(against, [], [], [task.truth for task in material])
    notes = _notes(material, trained_on)
    ranks.require_same(lambda: {"the tasks": digest_of(_queries(material))})
    pooled, head = _pooled(baseline, material, kept, progress, store, ranks), baseline.head()
    tasks = tuple(
        _measure(candidate, head, task, pooled_ED, progress, ranks)
        for task, pooled_ED in zip(material, pooled, strict=True)
    )
    limits = judge(options.limits, None, tasks)
    return AccuracyReport(
        schema=SCHEMA,
        verdict=overall(limits),
        setting=setting,
        limits=limits,
        language=None,
        texts=(),
        tasks=tasks,
        notes=notes,
    )


def _read(task: Task, labels: tuple[str, ...], tokenizer: Tokenizer, max_length: int) -> ClassifierTask:
    if task.kind != "classification" or task.labels:
        raise CheckError(
            "a classifier names its labels itself", where=task.data, expected="a classification task without `labels`"
        )
    reading = Reading("check.tasks", task.encoding, task.text_field, task.label_field)
    labeled = read_labeled(Path(task.data), task.limit, {label: label for label in labels}, reading)
    texts = [(task.prompt or "{text}").replace("{text}", example.text) for example in labeled.examples]
    places = [f"{task.data}, {example.place}" for example in labeled.examples]
    encoded = encode_texts(texts, tokenizer, max_length, places)
    answers = tuple(labels.index(example.label) for example in labeled.examples)
    truth = Truth(task.name or labeled.name, labels, answers, tuple(texts), encoded.num_truncated)
    return ClassifierTask(truth, encoded, labeled.sha256)


def _notes(material: Sequence[ClassifierTask], trained_on: Collection[str]) -> tuple[str, ...]:
    known = [task.truth.name for task in material if task.sha256 in trained_on]
    notes = tuple(
        f"the classifier was trained on {name}: what it gets right there says little of other texts" for name in known
    )
    for note in notes:
        log.warning("%s", note)
    return notes


def _pooled(
    baseline: ModelSource,
    tasks: Sequence[ClassifierTask],
    kept: AnswerStore | None,
    progress: Progress,
    store: ActivationStore | None,
    ranks: Ranks,
) -> Sequence[Tensor]:
    """What the baseline pools of each task's texts: float32 ``[E, D]``."""
    queries = _queries(tasks)

    def read() -> Tensor | None:
        answers = None if kept is None else kept.read(queries)
        return None if answers is None else torch.cat(list(answers.rows))

    found_ED = ranks.from_first(read)
    if found_ED is not None:
        return list(torch.split(found_ED, [len(task.encoded.ids) for task in tasks]))
    pooled = [
        pooled_features(baseline, task.encoded.ids, store=store, progress=progress, ranks=ranks) for task in tasks
    ]
    if kept is not None and ranks.is_first:
        kept.write(queries, Answers(torch.cat(pooled).split(1)))
    return pooled


def _queries(tasks: Sequence[ClassifierTask]) -> list[Query]:
    return [Query(ids, 1) for task in tasks for ids in task.encoded.ids]


def _measure(
    candidate: OnnxClassifier, head: Linear, task: ClassifierTask, pooled_ED: Tensor, progress: Progress, ranks: Ranks
) -> TaskResult:
    baseline_EL = head(pooled_ED).numpy()
    candidate_EL = candidate.logits(task.encoded.ids, progress, ranks)
    return compare(task.truth, baseline_EL.astype(np.float64), candidate_EL.astype(np.float64))
