"""One block seen from its linears: what each reads, batch by batch, from the hidden states of all samples.

Shape suffixes: B samples of a batch, L tokens of a sample, D hidden size.
"""

from dataclasses import dataclass

from torch import Tensor

from glmquant.glm.attention import attend
from glmquant.glm.block import (
    Block,
    Linear,
    add_attention,
    add_mlp,
    attention_input,
    gate,
    mlp_input,
    split_heads,
)
from glmquant.glm.config import GlmConfig
from glmquant.streaming.activations import Activations


@dataclass(frozen=True, eq=False)
class Stream:
    """The samples inside one block. Norms come from ``block``; linears are given, float or quantized, as they are made.

    Inputs of linears are in ``activations.dtype``; the hidden states stay in float32.
    """

    block: Block
    config: GlmConfig
    activations: Activations

    def qkv_input(self, batch: slice) -> Tensor:
        x_BLD = self.activations.hidden.read(batch)
        return attention_input(x_BLD, self.block, self.config).to(self.activations.dtype)

    def heads(self, batch: slice, qkv_proj: Linear) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, as :func:`glmquant.glm.block.split_heads` gives them."""
        return split_heads(qkv_proj(self.qkv_input(batch)), self.config, self.activations.rope)

    def o_input(self, batch: slice, qkv_proj: Linear) -> Tensor:
        return attend(*self.heads(batch, qkv_proj), None)

    def gate_up_input(self, batch: slice) -> Tensor:
        """Once the attention's output is added to the hidden states."""
        x_BLD = self.activations.hidden.read(batch)
        return mlp_input(x_BLD, self.block, self.config).to(self.activations.dtype)

    def down_input(self, batch: slice, gate_up_proj: Linear) -> Tensor:
        return gate(gate_up_proj(self.gate_up_input(batch)))

    def add_attention(self, batch: slice, output_BLD: Tensor) -> None:
        """``output_BLD``: what ``o_proj`` gives."""
        hidden = self.activations.hidden
        hidden.write(batch, add_attention(hidden.read(batch), output_BLD, self.block, self.config))

    def add_mlp(self, batch: slice, output_BLD: Tensor) -> None:
        """``output_BLD``: what ``down_proj`` gives."""
        hidden = self.activations.hidden
        hidden.write(batch, add_mlp(hidden.read(batch), output_BLD, self.block, self.config))
