"""A checkpoint with its linears rounded to nearest as they are read: an INT4 model without calibration."""

from dataclasses import dataclass

from torch import Tensor

from glmquant.core.spec import QuantSpec
from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.linear import Linear
from glmquant.methods.rtn import Rtn
from glmquant.store.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class RoundedSource:
    """A ``glmquant.glm.model.ModelSource``."""

    checkpoint: Checkpoint
    spec: QuantSpec
    head_spec: QuantSpec

    @property
    def config(self) -> GlmConfig:
        return self.checkpoint.config

    def block(self, layer: int) -> Block:
        return self.checkpoint.block(layer).mapped(lambda linear: rounded(linear, self.spec), lambda gain: gain)

    def embedding(self) -> Tensor:
        return self.checkpoint.embedding()

    def final_norm(self) -> Tensor:
        return self.checkpoint.final_norm()

    def head(self) -> Linear:
        return rounded(self.checkpoint.head(), self.head_spec)


def rounded(layer: Linear, spec: QuantSpec) -> Linear:
    return Linear(Rtn().quantize(layer.dense(), spec, None), layer.bias_N)
