"""The ``ort`` profile: ONNX Runtime's fused operators."""

import onnx_ir as ir

from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.expert_matrices import StoredExperts
from glmquant.onnx_export.expert_ops import routed_experts
from glmquant.onnx_export.graph import CacheType, Heads
from glmquant.onnx_export.matrices import BlockedMatrix, IntegerMatrix, PackedMatrix
from glmquant.onnx_export.ops import (
    MICROSOFT,
    OPSET,
    CacheScales,
    add_and_norm,
    gather_columns,
    gather_quantized_rows,
    gather_rows,
    grouped_query_attention,
    matmul,
    matmul_integer,
    matmul_nbits,
    swiglu,
)
from glmquant.onnx_export.padding import AlignedRows, align_rows, last_real, restore_rows
from glmquant.onnx_export.shared_operators import SharedOperators
from glmquant.onnx_export.weights import StoredLinear, StoredMatrix, StoredModel


class FusedOperators(SharedOperators):
    """A :class:`glmquant.onnx_export.graph.Operators`.

    Args:
        dtype: of everything that is not quantized.
        cache_bits: 8 or 4 for a quantized cache, whose scales the model then has; 0 for one of ``dtype``.
    """

    def __init__(
        self, config: GlmConfig, weights: StoredModel, dtype: ir.DataType, accuracy_level: int, cache_bits: int = 0
    ) -> None:
        super().__init__(GraphBuilder("glm", {"": OPSET, MICROSOFT: 1}), config)
        self.cache = cache_type(dtype, config.head_dim, cache_bits)
        self._weights = weights
        self._dtype = dtype
        self._accuracy_level = accuracy_level
        self._rows: AlignedRows

    def start(self, input_ids_BS: ir.Value, mask_BT: ir.Value) -> ir.Value:
        self._rows = align_rows(self.g, input_ids_BS, mask_BT)
        return self._rows.input_ids

    def embed(self, table: StoredMatrix, ids_BS: ir.Value) -> ir.Value:
        assert not isinstance(table, BlockedMatrix | IntegerMatrix)
        if isinstance(table, PackedMatrix):
            return gather_quantized_rows(self.g, table, ids_BS)
        return gather_rows(self.g, self.g.weight(table), ids_BS)

    def linear(self, x: ir.Value, layer: StoredLinear) -> ir.Value:
        assert not isinstance(layer.weight, BlockedMatrix)
        if layer.order is not None:
            x = gather_columns(self.g, x, self.g.weight(layer.order))
        bias = None if layer.bias is None else self.g.weight(layer.bias)
        if isinstance(layer.weight, PackedMatrix):
            return matmul_nbits(self.g, x, layer.weight, bias, self._accuracy_level)
        if isinstance(layer.weight, IntegerMatrix):
            return matmul_integer(self.g, x, layer.weight, bias)
        return matmul(self.g, x, self.g.weight(layer.weight), bias)

    def experts(self, x_BSD: ir.Value, experts: StoredExperts) -> ir.Value:
        return routed_experts(self.g, x_BSD, experts, self._dtype, self._accuracy_level)

    def add_and_norm(
        self, x_BSD: ir.Value, residual_BSD: ir.Value, gain_D: ir.ExternalTensor
    ) -> tuple[ir.Value, ir.Value]:
        return add_and_norm(self.g, x_BSD, residual_BSD, self.g.weight(gain_D), self.config.rms_norm_eps)

    def attention(
        self, heads: Heads, past: tuple[ir.Value, ir.Value], layer: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        g, weights = self.g, self._weights
        caches = (g.weight(weights.cos_cache), g.weight(weights.sin_cache))
        counts = (self.config.num_attention_heads, self.config.num_key_value_heads)
        scales = None
        if weights.cache_scales:
            stored = weights.cache_scales[layer]
            bits = 4 if self.cache.dtype == ir.DataType.UINT8 else 8
            scales = CacheScales(bits, g.weight(stored.key), g.weight(stored.value))
        in_pairs = self.config.rotates_in_pairs
        return grouped_query_attention(g, heads, past, self._rows.step, caches, counts, scales, in_pairs=in_pairs)

    def swiglu(self, gate_up: ir.Value) -> ir.Value:
        return swiglu(self.g, gate_up)

    def kept(self, x_BSD: ir.Value, keep_1: ir.Value) -> ir.Value:
        return restore_rows(self.g, x_BSD, self._rows, keep_1)

    def last_real(self, x_BSD: ir.Value) -> ir.Value:
        return last_real(self.g, x_BSD, self._rows)


def cache_type(dtype: ir.DataType, head_dim: int, bits: int) -> CacheType:
    """int8, or 4-bit pairs in uint8, or ``dtype`` itself."""
    if bits == 4:
        return CacheType(ir.DataType.UINT8, head_dim // 2)
    return CacheType(ir.DataType.INT8 if bits == 8 else dtype, head_dim)
