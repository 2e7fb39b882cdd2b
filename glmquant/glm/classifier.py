"""Sequence classification: a linear head on the last real token's final hidden state.

Two heads are published. ChatGLM2's is ``classifier_head.{weight,bias}``, read at the last position of left-padded rows
(``ChatGLMForSequenceClassification`` in the publisher's ``modeling_chatglm.py``); transformers' is ``score.weight``,
without a bias, read at the last id that is not the pad token (``GlmForSequenceClassification``). Both positions are the
last real token, which is what glmquant reads, on whichever side the padding stands.

Shape suffixes: D hidden, L labels.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final, Literal

from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.glm.layouts.fields import Fields
from glmquant.glm.layouts.layout import Layout, TensorSource
from glmquant.glm.linear import Linear
from glmquant.glm.names import HEAD

HeadName = Literal["score", "classifier_head"]
"""Under which name a head is stored: ``score`` is what transformers loads, ``classifier_head`` may have a bias."""

HEAD_WEIGHT: Final = "classifier_head.weight"
HEAD_BIAS: Final = "classifier_head.bias"
SCORE_WEIGHT: Final = "score.weight"
MOST_LABELS: Final = 100_000
_ARCHITECTURE_SUFFIX: Final = "ForSequenceClassification"


@dataclass(frozen=True, eq=False)
class ClassificationHead:
    """A head over ``labels``, named in the order of its rows.

    Attributes:
        weight_LD: any float dtype.
        bias_L: None where there is none.

    Raises:
        CheckpointError: shapes that do not fit the labels, or fewer than two of those.
    """

    weight_LD: Tensor
    bias_L: Tensor | None
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        rows = len(self.labels)
        if rows < 2 or len(set(self.labels)) < rows:
            raise CheckpointError(f"a head over the labels {list(self.labels)}", expected="two or more, all different")
        if self.weight_LD.ndim != 2 or len(self.weight_LD) != rows:
            raise CheckpointError(
                f"a head of shape {list(self.weight_LD.shape)} for {rows} labels", expected="one row a label"
            )
        if self.bias_L is not None and tuple(self.bias_L.shape) != (rows,):
            raise CheckpointError(f"a head's bias of shape {list(self.bias_L.shape)}", expected=f"[{rows}]")

    @property
    def linear(self) -> Linear:
        """The head as a linear layer."""
        return Linear(self.weight_LD, self.bias_L)

    @property
    def is_biased(self) -> bool:
        """The bias changes something."""
        return self.bias_L is not None and bool(self.bias_L.any())

    @property
    def stored_as(self) -> HeadName:
        """The name that holds all of it: ``score`` unless there is a bias."""
        return "classifier_head" if self.is_biased else "score"

    def tensors(self, name: HeadName) -> dict[str, Tensor]:
        """The tensors to store under ``name``.

        Raises:
            CheckpointError: a bias that is not zero, which ``score`` has no room for.
        """
        if name == "score":
            if self.is_biased:
                raise CheckpointError(
                    "the head has a bias, and transformers' `score` head has none",
                    where=HEAD_BIAS,
                    expected="a head without a bias, or with one of zeros",
                    hint="store it as `classifier_head`; dropping the bias would change the answers",
                )
            return {SCORE_WEIGHT: self.weight_LD}
        bias_L = self.weight_LD.new_zeros(len(self.labels)) if self.bias_L is None else self.bias_L
        return {HEAD_WEIGHT: self.weight_LD, HEAD_BIAS: bias_L}


def read_labels(fields: Fields, tensor_names: Collection[str] | None) -> tuple[str, ...]:
    """The labels of a classifier's ``config.json`` in the order of the head's rows; empty for a language model.

    It is a classifier if it has a head's tensors, or says so in ``architectures``. Labels stand in ``id2label``; else
    they are called ``LABEL_0`` and on, ``num_labels`` of them, or two: transformers' own defaults.

    Raises:
        CheckpointError: fields that do not name every label once.
    """
    architectures = fields.raw("architectures")
    named = isinstance(architectures, list) and any(str(a).endswith(_ARCHITECTURE_SUFFIX) for a in architectures)
    if not named and not {HEAD_WEIGHT, SCORE_WEIGHT} & set(tensor_names or ()):
        return ()
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


def as_classifier(layout: Layout, labels: tuple[str, ...], tensor_names: Collection[str] | None) -> Layout:
    """The layout of a checkpoint with a classification head; its language-model head, if any, is not read."""
    names = tensor_names or ()
    hidden = layout.config.hidden_size
    is_score = HEAD_WEIGHT not in names and SCORE_WEIGHT in names
    sources = {name: source for name, source in layout.sources.items() if name != HEAD}
    sources[HEAD_WEIGHT] = TensorSource(SCORE_WEIGHT if is_score else HEAD_WEIGHT, (len(labels), hidden))
    if HEAD_BIAS in names:
        sources[HEAD_BIAS] = TensorSource(HEAD_BIAS, (len(labels),))
    ignored = layout.ignored | {HEAD, layout.sources[HEAD].name}
    return Layout(replace(layout.config, labels=labels), sources, ignored)
