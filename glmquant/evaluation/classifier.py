"""Checking an exported classifier against the checkpoint it comes from.

Shape suffixes: E examples, D hidden, L labels.
"""

from pathlib import Path

import numpy as np

from glmquant.core.protocols import Tokenizer
from glmquant.data.labeled import read_labeled
from glmquant.data.reading import Reading
from glmquant.data.sequences import encode_texts
from glmquant.errors import CheckError
from glmquant.evaluation.gate import judge, overall
from glmquant.evaluation.results import SCHEMA, AccuracyReport, Setting
from glmquant.evaluation.tasks import TaskResult, Truth, compare
from glmquant.glm.model import ModelSource
from glmquant.progress import Progress, silent
from glmquant.recipe.check_options import CheckOptions, Task
from glmquant.runtime.classify import OnnxClassifier
from glmquant.streaming.activations import ActivationStore
from glmquant.streaming.features import pooled_features


def evaluate_classifier(
    candidate: OnnxClassifier,
    baseline: ModelSource,
    tokenizer: Tokenizer,
    options: CheckOptions,
    setting: Setting,
    progress: Progress = silent,
    store: ActivationStore | None = None,
) -> AccuracyReport:
    """Measures the candidate against the baseline, computed in float32, on the tasks of ``options``.

    Both read the same tokens; a text longer than the candidate takes loses its end, and the report counts it.

    Raises:
        DataError: data that cannot be read, an empty text, or a label that the classifier does not know.
        CheckError: no task, a text or a kind of task that only a language model can be measured on, or two classifiers
            of different labels.
    """
    if options.text or not options.tasks:
        raise CheckError(
            "a classifier is checked on labeled texts" + (", and there is no task" if not options.tasks else " only"),
            where="check.text" if options.text else "check.tasks",
            expected="tasks whose data are lines of text and label",
            hint="give `tasks` and no `text`",
        )
    if candidate.labels != baseline.config.labels:
        raise CheckError(
            f"the bundle's labels are {list(candidate.labels)}",
            expected=f"those of the baseline, in its order: {list(baseline.config.labels)}",
            hint="give the checkpoint that the bundle was exported from",
        )
    tasks = tuple(_measure(candidate, baseline, tokenizer, task, progress, store) for task in options.tasks)
    limits = judge(options.limits, None, tasks)
    return AccuracyReport(
        schema=SCHEMA, verdict=overall(limits), setting=setting, limits=limits, language=None, texts=(), tasks=tasks
    )


def _measure(
    candidate: OnnxClassifier,
    baseline: ModelSource,
    tokenizer: Tokenizer,
    task: Task,
    progress: Progress,
    store: ActivationStore | None,
) -> TaskResult:
    if task.kind != "classification" or task.labels:
        raise CheckError(
            "a classifier names its labels itself", where=task.data, expected="a classification task without `labels`"
        )
    labels = candidate.labels
    reading = Reading("check.tasks", task.encoding, task.text_field, task.label_field)
    labeled = read_labeled(Path(task.data), task.limit, {label: label for label in labels}, reading)
    texts = [(task.prompt or "{text}").replace("{text}", example.text) for example in labeled.examples]
    places = [f"{task.data}, {example.place}" for example in labeled.examples]
    encoded = encode_texts(texts, tokenizer, candidate.max_length, places)
    truth = Truth(
        task.name or labeled.name,
        labels,
        tuple(labels.index(example.label) for example in labeled.examples),
        tuple(texts),
        encoded.num_truncated,
    )
    pooled_ED = pooled_features(baseline, encoded.ids, store=store, progress=progress)
    baseline_EL = baseline.head()(pooled_ED).numpy()
    candidate_EL = candidate.logits(encoded.ids, progress)
    return compare(truth, baseline_EL.astype(np.float64), candidate_EL.astype(np.float64))
