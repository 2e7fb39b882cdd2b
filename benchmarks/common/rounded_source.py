"""A checkpoint with its linears rounded to nearest as they are read: an INT4 model without calibration."""

from dataclasses import dataclass, replace

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
        block = self.checkpoint.block(layer)
        return replace(
            block,
            qkv_proj=rounded(block.linears()["self_attn.qkv_proj"], self.spec),
            o_proj=rounded(block.linears()["self_attn.o_proj"], self.spec),
            gate_up_proj=rounded(block.linears()["mlp.gate_up_proj"], self.spec),
            down_proj=rounded(block.linears()["mlp.down_proj"], self.spec),
        )

    def embedding(self) -> Tensor:
        return self.checkpoint.embedding()

    def final_norm(self) -> Tensor:
        return self.checkpoint.final_norm()

    def lm_head(self) -> Linear:
        return rounded(self.checkpoint.lm_head(), self.head_spec)


def rounded(layer: Linear, spec: QuantSpec) -> Linear:
    return Linear(Rtn().quantize(layer.dense(), spec, None), layer.bias_N)
