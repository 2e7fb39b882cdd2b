"""The model as an ONNX graph, ``ort`` profile: ONNX Runtime's fused operators.

Shape suffixes: B batch, S new tokens, D hidden size.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from glmquant.export.bundle import TensorInfo
from glmquant.export.ops import (
    IR_VERSION,
    GraphBuilder,
    add_and_norm,
    gather_quantized_rows,
    gather_rows,
    grouped_query_attention,
    matmul,
    matmul_nbits,
    rms_norm,
    swiglu,
)
from glmquant.export.padding import AlignedRows, align_rows, restore_rows
from glmquant.export.weights import PackedMatrix, StoredBlock, StoredLinear, StoredModel
from glmquant.glm.config import GlmConfig

KEEP = "num_logits_to_keep"


@dataclass(frozen=True, eq=False)
class Decoder:
    """A graph, the inputs that must be fed, and its outputs."""

    graph: ir.Graph
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def build_graph(config: GlmConfig, weights: StoredModel, *, dtype: ir.DataType, accuracy_level: int) -> Decoder:
    """The decoder with its cache.

    Inputs: ``input_ids`` and ``attention_mask``, int64; ``past_key_values.{i}.key`` and ``.value``;
    ``num_logits_to_keep`` int64 [1], optional: logits of each row's last so many columns, or of all (0, the default).
    Outputs: ``logits``; ``present.{i}.key`` and ``.value``. Floats are of ``dtype``.
    """
    return _DecoderBuilder(config, weights, dtype, accuracy_level).build()


class _DecoderBuilder:
    def __init__(self, config: GlmConfig, weights: StoredModel, dtype: ir.DataType, accuracy_level: int) -> None:
        self._config = config
        self._weights = weights
        self._dtype = dtype
        self._accuracy_level = accuracy_level
        self._g = GraphBuilder("glm")

    def build(self) -> Decoder:
        g, config = self._g, self._config
        input_ids_BS = g.input("input_ids", ir.DataType.INT64, ["batch_size", "sequence_length"])
        mask = g.input("attention_mask", ir.DataType.INT64, ["batch_size", "total_sequence_length"])
        past = [self._past(layer) for layer in range(config.num_hidden_layers)]
        keep_1 = g.optional_input(KEEP, np.zeros(1, np.int64))

        g.scope("rows")
        rows = align_rows(g, input_ids_BS, mask)
        g.scope("embed_tokens")
        x_BSD = self._embed(rows.input_ids)
        normed_BSD = rms_norm(g, x_BSD, g.weight(self._gain(0)), config.rms_norm_eps)
        present = []
        for layer, block in enumerate(self._weights.blocks):
            g.scope(f"layers.{layer}")
            normed_BSD, x_BSD, cache = self._block(normed_BSD, x_BSD, block, self._gain(layer + 1), past[layer], rows)
            present.append(cache)
        g.scope("lm_head")
        logits = self._linear(restore_rows(g, normed_BSD, rows, keep_1), self._weights.lm_head)

        g.output(logits, "logits", self._dtype, ["batch_size", "sequence_length", config.vocab_size])
        for layer, cache in enumerate(present):
            for value, part in zip(cache, ("key", "value"), strict=True):
                g.output(value, f"present.{layer}.{part}", self._dtype, self._cache_shape("total_sequence_length"))
        return Decoder(g.graph, tuple(g.fed_inputs), tuple(g.outputs))

    def _block(
        self,
        normed_BSD: ir.Value,
        x_BSD: ir.Value,
        block: StoredBlock,
        next_gain: ir.ExternalTensor,
        past: tuple[ir.Value, ir.Value],
        rows: AlignedRows,
    ) -> tuple[ir.Value, ir.Value, tuple[ir.Value, ir.Value]]:
        """Gives the next block's normed input, the residual, and keys and values."""
        g, config = self._g, self._config
        qkv = self._linear(normed_BSD, block.qkv_proj)
        caches = (g.weight(self._weights.cos_cache), g.weight(self._weights.sin_cache))
        heads = (config.num_attention_heads, config.num_key_value_heads)
        context, key, value = grouped_query_attention(g, qkv, past, rows.step, caches, heads)
        attended = self._norm_or_pass(self._linear(context, block.o_proj), block.post_self_attn_layernorm)
        normed, x_BSD = self._add_and_norm(attended, x_BSD, block.post_attention_layernorm)
        inner = self._linear(swiglu(g, self._linear(normed, block.gate_up_proj)), block.down_proj)
        mlp = self._norm_or_pass(inner, block.post_mlp_layernorm)
        normed, x_BSD = self._add_and_norm(mlp, x_BSD, next_gain)
        return normed, x_BSD, (key, value)

    def _embed(self, input_ids_BS: ir.Value) -> ir.Value:
        table = self._weights.embedding
        if isinstance(table, PackedMatrix):
            return gather_quantized_rows(self._g, table, input_ids_BS)
        return gather_rows(self._g, self._g.weight(table), input_ids_BS)

    def _linear(self, x: ir.Value, layer: StoredLinear) -> ir.Value:
        g = self._g
        bias = None if layer.bias is None else g.weight(layer.bias)
        if isinstance(layer.weight, PackedMatrix):
            return matmul_nbits(g, x, layer.weight, bias, self._accuracy_level)
        return matmul(g, x, g.weight(layer.weight), bias)

    def _norm_or_pass(self, x_BSD: ir.Value, gain: ir.ExternalTensor | None) -> ir.Value:
        return x_BSD if gain is None else rms_norm(self._g, x_BSD, self._g.weight(gain), self._config.rms_norm_eps)

    def _add_and_norm(self, x: ir.Value, residual: ir.Value, gain: ir.ExternalTensor) -> tuple[ir.Value, ir.Value]:
        return add_and_norm(self._g, x, residual, self._g.weight(gain), self._config.rms_norm_eps)

    def _gain(self, layer: int) -> ir.ExternalTensor:
        """Of the norm a layer's input passes; past the last layer, the final norm."""
        blocks = self._weights.blocks
        return blocks[layer].input_layernorm if layer < len(blocks) else self._weights.final_norm

    def _past(self, layer: int) -> tuple[ir.Value, ir.Value]:
        shape = self._cache_shape("past_sequence_length")
        key, value = (self._g.input(f"past_key_values.{layer}.{part}", self._dtype, shape) for part in ("key", "value"))
        return key, value

    def _cache_shape(self, length: str) -> list[int | str]:
        return ["batch_size", self._config.num_key_value_heads, length, self._config.head_dim]


def to_bytes(graph: ir.Graph, metadata: dict[str, str]) -> bytes:
    """The contents of an ONNX file, the same every time."""
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="glmquant", metadata_props=metadata)
    data: bytes = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    return data
