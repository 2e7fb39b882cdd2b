"""What both profiles compute by the same operators."""

from collections.abc import Sequence

import onnx_ir as ir

from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.ops import norm_heads, rms_norm, shared_key, split


class SharedOperators:
    """The part of a :class:`glmquant.onnx_export.graph.Operators` that no profile changes."""

    def __init__(self, g: GraphBuilder, config: GlmConfig) -> None:
        self.g, self.config = g, config

    def norm(self, x_BSD: ir.Value, gain_D: ir.ExternalTensor, epsilon: float | None = None) -> ir.Value:
        """By the model's own epsilon where none is given."""
        return rms_norm(self.g, x_BSD, self.g.weight(gain_D), epsilon or self.config.rms_norm_eps)

    def split(self, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Along the last dimension."""
        return split(self.g, x, sizes)

    def norm_heads(self, x: ir.Value, gain_E: ir.ExternalTensor) -> ir.Value:
        """Each head of ``[B, S, heads * E]`` by itself."""
        return norm_heads(self.g, x, self.g.weight(gain_E), self.config.head_dim, self.config.rms_norm_eps)

    def shared_key(self, key_BSR: ir.Value, keys: ir.Value, heads: int) -> ir.Value:
        """Heads ``[B, S, heads * E]``: in each what is shared by all, then its own of ``keys``."""
        return shared_key(self.g, key_BSR, keys, heads)
