"""Operators of routed experts in the ``ort`` profile: com.microsoft MoEGroupRouter-1, QMoE-1 and MoE-1.

The router gives logarithms of the chosen experts' scores and a large negative number elsewhere; the softmax over the
chosen ones that ``QMoE`` computes of them is their share of the scores' sum, which is how GLM weighs its experts.

Shape suffixes: B batch, S new tokens, D hidden size, T tokens of all rows, X experts.
"""

import onnx_ir as ir

from glmquant.onnx_export.builder import GraphBuilder
from glmquant.onnx_export.expert_matrices import ExpertMatrices, StoredExperts
from glmquant.onnx_export.ops import MICROSOFT


def routed_experts(
    g: GraphBuilder, x_BSD: ir.Value, experts: StoredExperts, dtype: ir.DataType, accuracy_level: int
) -> ir.Value:
    """What the chosen experts add to each token, ``[B, S, D]``."""
    scores_TX = _router(g, x_BSD, experts, dtype)
    shared: dict[str, int | float | str] = {
        "k": experts.per_token,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,
        "activation_alpha": 1.0,
        "activation_beta": 0.0,
    }
    gate_up, down = experts.gate_up, experts.down
    if gate_up.scales is None or down.scales is None:
        inputs = [x_BSD, scores_TX, g.weight(gate_up.codes), None, g.weight(down.codes)]
        return g.node("MoE", inputs, domain=MICROSOFT, **shared)
    inputs = [x_BSD, scores_TX, *_quantized(g, gate_up), *_quantized(g, down), None, None, None]
    inputs += [None if each.zero_points is None else g.weight(each.zero_points) for each in (gate_up, down)]
    while inputs[-1] is None:
        inputs.pop()
    blocks = {"block_size": gate_up.block_size} if gate_up.block_size else {}
    return g.node(
        "QMoE",
        inputs,
        domain=MICROSOFT,
        expert_weight_bits=gate_up.bits,
        accuracy_level=accuracy_level,
        weights_prepacked=0,
        **shared,
        **blocks,
    )


def _quantized(g: GraphBuilder, matrices: ExpertMatrices) -> list[ir.Value | None]:
    assert matrices.scales is not None
    return [g.weight(matrices.codes), g.weight(matrices.scales), None]


def _router(g: GraphBuilder, x_BSD: ir.Value, experts: StoredExperts, dtype: ir.DataType) -> ir.Value:
    """Float32 up to the scores, whatever ``dtype`` is: Reshape-23, Cast-23, MatMul-13, MoEGroupRouter-1."""
    width, _ = experts.router.shape.numpy()
    x_TD = g.node("Reshape", [x_BSD, g.ints(-1, width)])
    if dtype != ir.DataType.FLOAT:
        x_TD = g.node("Cast", [x_TD], to=int(ir.DataType.FLOAT))
    logits_TX = g.node("MatMul", [x_TD, g.weight(experts.router)])
    scores_TX = g.node(
        "MoEGroupRouter",
        [logits_TX, g.weight(experts.bias)],
        domain=MICROSOFT,
        top_k=experts.per_token,
        n_group=1,
        topk_group=1,
    )
    return scores_TX if dtype == ir.DataType.FLOAT else g.node("Cast", [scores_TX], to=int(dtype))
