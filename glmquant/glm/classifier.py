"""Sequence classification: a linear head on the last real token's final hidden state.

Two heads are published. ChatGLM2's is ``classifier_head.{weight,bias}``, read at the last position of left-padded rows
(``ChatGLMForSequenceClassification`` in the publisher's ``modeling_chatglm.py``); transformers' is ``score.weight``,
without a bias, read at the last id that is not the pad token (``GlmForSequenceClassification``). Both positions are the
last real token, which is what glmquant reads, on whichever side the padding stands.

Shape suffixes: D hidden, L labels.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from glmquant.errors import CheckpointError
from glmquant.glm.layouts.labels import HEAD_BIAS, HEAD_WEIGHT, SCORE_WEIGHT
from glmquant.glm.linear import Linear

HeadName = Literal["score", "classifier_head"]
"""Under which name a head is stored: ``score`` is what transformers loads, ``classifier_head`` may have a bias."""


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
