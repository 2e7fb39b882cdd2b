"""The labels of a published classifier, and the names of its head."""

from collections.abc import Collection
from typing import Final

from glmquant.glm.layouts.fields import Fields

HEAD_WEIGHT: Final = "classifier_head.weight"
HEAD_BIAS: Final = "classifier_head.bias"
SCORE_WEIGHT: Final = "score.weight"
MOST_LABELS: Final = 100_000
SINGLE_LABEL: Final = "single_label_classification"
_ARCHITECTURE_SUFFIX: Final = "ForSequenceClassification"


def read_labels(fields: Fields, tensor_names: Collection[str] | None) -> tuple[str, ...]:
    """The labels of a classifier's ``config.json`` in the order of the head's rows; empty for a language model.

    It is a classifier if it has a head's tensors, or says so in ``architectures``. Labels stand in ``id2label``; else
    they are called ``LABEL_0`` and on, ``num_labels`` of them, or two: transformers' own defaults.

    Raises:
        CheckpointError: fields that do not name every label once, or a head that gives numbers or several labels.
    """
    architectures = fields.raw("architectures")
    named = isinstance(architectures, list) and any(str(a).endswith(_ARCHITECTURE_SUFFIX) for a in architectures)
    if not named and not {HEAD_WEIGHT, SCORE_WEIGHT} & set(tensor_names or ()):
        return ()
    _refuse_other_problems(fields)
    table = fields.raw("id2label")
    if table is None:
        count = fields.integer("num_labels", 2, low=2, high=MOST_LABELS)
        return tuple(f"LABEL_{number}" for number in range(count))
    expected = "an object from each row, from 0, to its label: two or more, all different"
    if not isinstance(table, dict) or not 2 <= len(table) <= MOST_LABELS:
        raise fields.error("id2label", expected)
    labels = tuple(table.get(str(number)) for number in range(len(table)))
    names = tuple(label for label in labels if isinstance(label, str) and label.strip())
    if len(set(names)) < len(table):
        raise fields.error("id2label", expected)
    return names


def _refuse_other_problems(fields: Fields) -> None:
    problem = fields.raw("problem_type")
    if problem not in (None, SINGLE_LABEL):
        raise fields.error(
            "problem_type",
            f"{SINGLE_LABEL}: one label a text, by the largest logit",
            "where the head was trained to give one label a text, say so in config.json, or leave the field out",
        )
