"""The ``standard`` profile: operators of plain ONNX, opset 23.

Rows stay as they are fed; padding is masked out wherever it stands. Keys and values grow by concatenation, padding
included, so a cache column belongs to a mask column.

Shape suffixes: B batch, S new tokens, T all columns of the mask, D hidden size, N output columns, K input columns,
H query heads, C key/value heads, E head size.
"""

import onnx_ir as ir

from glmquant.glm.config import GlmConfig
from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.expert_matrices import StoredExperts
from glmquant.onnx_export.feasible import without_experts
from glmquant.onnx_export.graph import CacheType, Heads
from glmquant.onnx_export.matrices import BlockedMatrix, IntegerMatrix, PackedMatrix
from glmquant.onnx_export.ops import OPSET, gather_columns, gather_rows, matmul
from glmquant.onnx_export.padding import END
from glmquant.onnx_export.shared_operators import SharedOperators
from glmquant.onnx_export.weights import StoredLinear, StoredMatrix, StoredModel


class StandardOperators(SharedOperators):
    """A :class:`glmquant.onnx_export.graph.Operators`."""

    def __init__(self, config: GlmConfig, weights: StoredModel, dtype: ir.DataType) -> None:
        super().__init__(GraphBuilder("glm", {"": OPSET}), config)
        self.cache = CacheType(dtype, config.head_dim)
        self._weights = weights
        self._recent_BS: ir.Value
        self._positions_BS: ir.Value
        self._visible_B1ST: ir.Value

    def start(self, input_ids_BS: ir.Value, mask_BT: ir.Value) -> ir.Value:
        """Shape-15, Slice-13, CumSum-14, Sub-14, Max-13, Range-11, LessOrEqual-16, Equal-19, And-7, Or-7, Cast-19."""
        g = self.g
        length_1 = g.node("Shape", [input_ids_BS], start=1, end=2)
        from_end = [g.node("Neg", [length_1]), g.ints(END), g.ints(1)]
        self._recent_BS = g.node("Slice", [mask_BT, *from_end])
        counted_BT = g.node("Sub", [g.node("CumSum", [mask_BT, g.int(1)]), g.int(1)])
        self._positions_BS = g.node("Slice", [g.node("Max", [counted_BT, g.int(0)]), *from_end])
        total = g.node("Squeeze", [g.node("Shape", [mask_BT], start=1, end=2)])
        columns_T = g.node("Range", [g.int(0), total, g.int(1)])
        own_S1 = g.node("Unsqueeze", [g.node("Slice", [columns_T, from_end[0], g.ints(END), g.ints(0)]), g.ints(1)])
        real_B1T = g.node("Unsqueeze", [g.node("Cast", [mask_BT], to=int(ir.DataType.BOOL)), g.ints(1)])
        causal_BST = g.node("And", [real_B1T, g.node("LessOrEqual", [columns_T, own_S1])])
        # A pad sees itself, so that its row is a number; nothing real sees it.
        visible_BST = g.node("Or", [causal_BST, g.node("Equal", [columns_T, own_S1])])
        self._visible_B1ST = g.node("Unsqueeze", [visible_BST, g.ints(1)])
        return input_ids_BS

    def embed(self, table: StoredMatrix, ids_BS: ir.Value) -> ir.Value:
        """Gather-13, and DequantizeLinear-23 of the gathered rows alone."""
        assert not isinstance(table, PackedMatrix | IntegerMatrix)
        g = self.g
        if not isinstance(table, BlockedMatrix):
            return gather_rows(g, g.weight(table), ids_BS)
        inputs = [gather_rows(g, g.weight(part), ids_BS) for part in (table.codes, table.scales)]
        if table.zero_points is not None:
            inputs.append(gather_rows(g, g.weight(table.zero_points), ids_BS))
        return g.node("DequantizeLinear", inputs, axis=2, block_size=table.block_size)

    def linear(self, x: ir.Value, layer: StoredLinear) -> ir.Value:
        """DequantizeLinear-23, MatMul-13, Add-14, and Gather-13 of the inputs."""
        assert not isinstance(layer.weight, PackedMatrix | IntegerMatrix)
        g = self.g
        if layer.order is not None:
            x = gather_columns(g, x, g.weight(layer.order))
        bias = None if layer.bias is None else g.weight(layer.bias)
        if not isinstance(layer.weight, BlockedMatrix):
            return matmul(g, x, g.weight(layer.weight), bias)
        matrix = layer.weight
        inputs = [g.weight(matrix.codes), g.weight(matrix.scales)]
        if matrix.zero_points is not None:
            inputs.append(g.weight(matrix.zero_points))
        weight_KN = g.node("DequantizeLinear", inputs, axis=matrix.axis, block_size=matrix.block_size)
        return matmul(g, x, weight_KN, bias)

    def experts(self, x_BSD: ir.Value, experts: StoredExperts) -> ir.Value:
        """Raises ExportError: no operator of plain ONNX has routed experts."""
        raise without_experts(self.config)

    def add_and_norm(
        self, x_BSD: ir.Value, residual_BSD: ir.Value, gain_D: ir.ExternalTensor
    ) -> tuple[ir.Value, ir.Value]:
        total_BSD = self.g.node("Add", [x_BSD, residual_BSD])
        return self.norm(total_BSD, gain_D), total_BSD

    def attention(
        self, heads: Heads, past: tuple[ir.Value, ir.Value], layer: int
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Split-18, RotaryEmbedding-23 of interleaved pairs, Attention-23 with a boolean mask."""
        assert not isinstance(heads, tuple), "check_supported lets no such model pass"
        g, config = self.g, self.config
        parts = (config.query_rows, config.key_value_rows, config.key_value_rows)
        query, key, value = g.nodes("Split", [heads, g.ints(*parts)], ["query", "key", "value"], axis=-1)
        names = ["context", f"layers.{layer}.keys", f"layers.{layer}.values"]
        context, keys, values = g.nodes(
            "Attention",
            [
                self._rotated(query, config.num_attention_heads),
                self._rotated(key, config.num_key_value_heads),
                value,
                self._visible_B1ST,
                *past,
            ],
            names,
            q_num_heads=config.num_attention_heads,
            kv_num_heads=config.num_key_value_heads,
        )
        return context, keys, values

    def swiglu(self, gate_up: ir.Value) -> ir.Value:
        """``silu(first half) * second half``: Split-18, Sigmoid-13, Mul-14."""
        g = self.g
        gated, up = g.nodes("Split", [gate_up], ["gate", "up"], axis=-1, num_outputs=2)
        return g.node("Mul", [g.node("Mul", [gated, g.node("Sigmoid", [gated])]), up])

    def kept(self, x_BSD: ir.Value, keep_1: ir.Value) -> ir.Value:
        """Slice-13. (A slice from ``-0`` starts at the beginning.)"""
        return self.g.node("Slice", [x_BSD, self.g.node("Neg", [keep_1]), self.g.ints(END), self.g.ints(1)])

    def last_real(self, x_BSD: ir.Value) -> ir.Value:
        """ArgMax-13 from the right, GatherND-13."""
        g = self.g
        last_B = g.node("ArgMax", [self._recent_BS], axis=1, keepdims=0, select_last_index=1)
        return g.node("GatherND", [x_BSD, g.node("Unsqueeze", [last_B, g.ints(1, 2)])], batch_dims=1)

    def _rotated(self, x: ir.Value, heads: int) -> ir.Value:
        g, weights = self.g, self._weights
        inputs = [x, g.weight(weights.cos_cache), g.weight(weights.sin_cache), self._positions_BS]
        return g.node(
            "RotaryEmbedding", inputs, interleaved=1, num_heads=heads, rotary_embedding_dim=self.config.rotary_dim
        )
