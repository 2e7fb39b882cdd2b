"""Operators of the ``ort`` profile, and those both profiles share: thin functions over a :class:`GraphBuilder`.

Names in docstrings are ONNX operators with the opset they are taken from; ``com.microsoft`` is ONNX Runtime's own
domain (ContribOperators.md of onnxruntime 1.32).

Shape suffixes: B batch, S new tokens, D hidden size, N output columns, K input columns, V vocabulary, C key/value
heads, E head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.matrices import IntegerMatrix, PackedMatrix

OPSET = 23
MICROSOFT = "com.microsoft"


def matmul(g: GraphBuilder, x: ir.Value, weight_KN: ir.Value, bias_N: ir.Value | None) -> ir.Value:
    """``x @ weight + bias``: MatMul-13, Add-14."""
    product = g.node("MatMul", [x, weight_KN])
    return product if bias_N is None else g.node("Add", [product, bias_N])


def matmul_nbits(
    g: GraphBuilder, x: ir.Value, matrix: PackedMatrix, bias_N: ir.Value | None, accuracy_level: int
) -> ir.Value:
    """``x @ dequantized.T + bias``: com.microsoft MatMulNBits-1.

    ``accuracy_level`` is the least exact arithmetic the runtime may use: 0 float32, or what it likes best; 1 float32,
    2 float16, 3 bfloat16, 4 int8.
    """
    zero_points = None if matrix.zero_points is None else g.weight(matrix.zero_points)
    inputs = [x, g.weight(matrix.codes), g.weight(matrix.scales), zero_points, None, bias_N]
    while inputs[-1] is None:
        inputs.pop()
    return g.node(
        "MatMulNBits",
        inputs,
        domain=MICROSOFT,
        K=matrix.columns,
        N=matrix.rows,
        bits=matrix.bits,
        block_size=matrix.block_size,
        accuracy_level=accuracy_level,
    )


def matmul_integer(g: GraphBuilder, x: ir.Value, matrix: IntegerMatrix, bias_N: ir.Value | None) -> ir.Value:
    """``x @ dequantized.T + bias`` in integers: Abs-13, ReduceMax-20, Max-13, Div-14, QuantizeLinear-23, com.microsoft
    MatMulIntegerToFloat-1, Mul-14, Add-14.

    Each token is divided by its own largest value, so that one constant scale rounds them all and none depends on its
    company in the batch.
    """
    step, middle = g.constant("activation_step", np.float32(1 / 127)), g.constant("activation_middle", np.uint8(128))
    largest = g.node("ReduceMax", [g.node("Abs", [x]), g.ints(-1)], keepdims=1)
    largest = g.node("Max", [largest, g.constant("smallest_activation", np.float32(1e-30))])  # a pad may be all zeros
    codes = g.node("QuantizeLinear", [g.node("Div", [x, largest]), step, middle])
    inputs = [codes, g.weight(matrix.codes), step, g.weight(matrix.scales), middle]
    product = g.node("Mul", [g.node("MatMulIntegerToFloat", inputs, domain=MICROSOFT), largest])
    return product if bias_N is None else g.node("Add", [product, bias_N])


def gather_rows(g: GraphBuilder, table_VD: ir.Value, ids_BS: ir.Value) -> ir.Value:
    """``table[ids]``: Gather-13."""
    return g.node("Gather", [table_VD, ids_BS], axis=0)


def gather_columns(g: GraphBuilder, x: ir.Value, order_K: ir.Value) -> ir.Value:
    """``x[..., order]``: Gather-13."""
    return g.node("Gather", [x, order_K], axis=-1)


def gather_quantized_rows(g: GraphBuilder, table: PackedMatrix, ids_BS: ir.Value) -> ir.Value:
    """``dequantized[ids]``: com.microsoft GatherBlockQuantized-1."""
    inputs = [g.weight(table.codes), ids_BS, g.weight(table.scales)]
    if table.zero_points is not None:
        inputs.append(g.weight(table.zero_points))
    return g.node(
        "GatherBlockQuantized",
        inputs,
        domain=MICROSOFT,
        bits=table.bits,
        block_size=table.block_size,
        gather_axis=0,
        quantize_axis=1,
    )


def rms_norm(g: GraphBuilder, x: ir.Value, gain_D: ir.Value, epsilon: float) -> ir.Value:
    """RMSNormalization-23, with its sums in float32."""
    return g.node("RMSNormalization", [x, gain_D], axis=-1, epsilon=epsilon, stash_type=1)


def add_and_norm(
    g: GraphBuilder, x: ir.Value, residual: ir.Value, gain_D: ir.Value, epsilon: float
) -> tuple[ir.Value, ir.Value]:
    """The norm of ``x + residual``, and the sum itself: com.microsoft SkipSimplifiedLayerNormalization-1."""
    names = ["normed", "", "", "residual"]
    outputs = g.nodes(
        "SkipSimplifiedLayerNormalization", [x, residual, gain_D], names, domain=MICROSOFT, epsilon=epsilon
    )
    return outputs[0], outputs[3]


def split(g: GraphBuilder, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    """Parts of the last dimension: Split-18."""
    return g.nodes("Split", [x, g.ints(*sizes)], [f"part_{number}" for number in range(len(sizes))], axis=-1)


def norm_heads(g: GraphBuilder, x: ir.Value, gain_E: ir.Value, head_dim: int, epsilon: float) -> ir.Value:
    """Each head of ``[B, S, heads * E]`` normalized by itself: Reshape-23, RMSNormalization-23."""
    heads_BSHE = g.node("Reshape", [x, g.ints(0, 0, -1, head_dim)])
    return g.node("Reshape", [rms_norm(g, heads_BSHE, gain_E, epsilon), g.ints(0, 0, -1)])


def shared_key(g: GraphBuilder, key_BSR: ir.Value, keys: ir.Value, heads: int) -> ir.Value:
    """Heads of what all share, then of their own: Unsqueeze-23, Expand-13, Reshape-23, Concat-13."""
    shared = g.node("Expand", [g.node("Unsqueeze", [key_BSR, g.ints(2)]), g.ints(1, 1, heads, 1)])
    own = g.node("Reshape", [keys, g.ints(0, 0, heads, -1)])
    return g.node("Reshape", [g.node("Concat", [shared, own], axis=-1), g.ints(0, 0, -1)])


def swiglu(g: GraphBuilder, gate_up: ir.Value) -> ir.Value:
    """``silu(first half) * second half``: Split-18, com.microsoft QuickGelu-1 with alpha 1, Mul-14."""
    gated, up = g.nodes("Split", [gate_up], ["gate", "up"], axis=-1, num_outputs=2)
    return g.node("Mul", [g.node("QuickGelu", [gated], domain=MICROSOFT, alpha=1.0), up])


@dataclass(frozen=True, eq=False)
class CacheStep:
    """What attention must know about this step beside the new tokens, which stand at the left of their rows.

    Attributes:
        seqlens_k: int32 ``[B]``, real tokens in all, less one.
        query_seqlens: int32 ``[B]``, real tokens among the new ones.
        total_length: int32 scalar, columns of the attention mask.
    """

    seqlens_k: ir.Value
    query_seqlens: ir.Value
    total_length: ir.Value


@dataclass(frozen=True, eq=False)
class CacheScales:
    """Of a quantized cache: a scale for each channel of keys and of values, float32 ``[1, C, 1, E]``."""

    bits: int
    key: ir.Value
    value: ir.Value


def grouped_query_attention(
    g: GraphBuilder,
    qkv: ir.Value | tuple[ir.Value, ir.Value, ir.Value],
    past: tuple[ir.Value, ir.Value],
    step: CacheStep,
    caches: tuple[ir.Value, ir.Value],
    heads: tuple[int, int],
    scales: CacheScales | None = None,
    *,
    in_pairs: bool = True,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Rotation, cache update and causal attention on q, k, v, fused or apart: com.microsoft GroupQueryAttention-1.

    ``caches`` holds cosines and sines ``[positions, rotary_dim / 2]``; their width decides how much of a head rotates,
    ``in_pairs`` or in halves. ``heads`` are query heads and key/value heads. Gives the context, and keys and values
    with the new ones added.
    """
    quantized: list[ir.Value | None] = [None, None] if scales is None else [scales.key, scales.value]
    heads_in = qkv if isinstance(qkv, tuple) else (qkv, None, None)
    inputs = [*heads_in, *past, step.seqlens_k, step.total_length, *caches]
    inputs += [None] * 3 + quantized + [None] * 2 + [step.query_seqlens]
    kind: dict[str, int | str] = {}
    if scales is not None:
        kind = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": scales.bits}
    context, key, value = g.nodes(
        "GroupQueryAttention",
        inputs,
        ["context", "key", "value"],
        domain=MICROSOFT,
        num_heads=heads[0],
        kv_num_heads=heads[1],
        do_rotary=1,
        rotary_interleaved=int(in_pairs),
        **kind,
    )
    return context, key, value
