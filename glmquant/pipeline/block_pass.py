"""One block: quantised linear by linear while the calibration samples pass through it once.

Each linear sees the inputs it will meet: those that the linears before it, already quantised, produce. The block is
cut where a linear's input appears, so each product is computed at most twice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmquant.core.qtensor import QuantTensor, row_slices
from glmquant.core.stats import HessianAccumulator, LayerStats
from glmquant.errors import QuantizationError
from glmquant.glm.block import (
    Block,
    Linear,
    add_attention,
    add_mlp,
    attend,
    attention_input,
    gate,
    mlp_input,
    split_heads,
)
from glmquant.glm.config import GlmConfig
from glmquant.pipeline.activations import Activations
from glmquant.recipe.plan import GroupPlan


@dataclass(frozen=True)
class GroupOutcome:
    """What quantising one linear group cost.

    Attributes:
        weight_error: ``‖W - Q‖² / ‖W‖²``; None where the group is kept.
        output_error: ``E‖(W - Q) x‖² / E‖W x‖²`` over the calibration inputs; None where none were gathered.
    """

    name: str
    plan: GroupPlan
    weight_error: float | None = None
    output_error: float | None = None


def quantize_linear(
    name: str, linear: Linear, plan: GroupPlan, inputs: Iterable[Tensor] | None
) -> tuple[Linear, GroupOutcome]:
    """``inputs`` are read only where the plan's method needs their Hessian."""
    if plan.spec is None or plan.method is None:
        return linear, GroupOutcome(name, plan)
    if isinstance(linear.weight, QuantTensor):
        raise QuantizationError(
            "the linear is quantised already", where=name, expected="a float checkpoint", fix="start from the original"
        )
    weight_NK = linear.weight
    stats = _second_moment(inputs, weight_NK.shape[1]) if plan.needs_hessian and inputs is not None else None
    quantized = plan.method.quantize(weight_NK, plan.spec, stats)
    outcome = _measure(name, plan, weight_NK, quantized, stats)
    return replace(linear, weight=quantized), outcome


def quantize_block(
    block: Block, names: Sequence[str], plans: dict[str, GroupPlan], config: GlmConfig, activations: Activations | None
) -> tuple[Block, list[GroupOutcome]]:
    """The block with its linears quantised; ``activations`` (if any) move on to the next block's inputs.

    Args:
        names: of the block's four groups, in the order of :func:`glmquant.glm.config.block_groups`.
    """
    if activations is None:
        linears = (block.qkv_proj, block.o_proj, block.gate_up_proj, block.down_proj)
        done = [quantize_linear(n, linear, plans[n], None) for n, linear in zip(names, linears, strict=True)]
        (qkv, _), (o, _), (gate_up, _), (down, _) = done
        return replace(block, qkv_proj=qkv, o_proj=o, gate_up_proj=gate_up, down_proj=down), [
            outcome for _, outcome in done
        ]
    attention, first = _attention_half(block, names, plans, config, activations)
    mlp, second = _mlp_half(block, names, plans, config, activations)
    qkv, o = attention
    gate_up, down = mlp
    return replace(block, qkv_proj=qkv, o_proj=o, gate_up_proj=gate_up, down_proj=down), [*first, *second]


def _attention_half(
    block: Block, names: Sequence[str], plans: dict[str, GroupPlan], config: GlmConfig, activations: Activations
) -> tuple[tuple[Linear, Linear], list[GroupOutcome]]:
    x_SLD, rope, batches = activations.hidden_SLD, activations.rope, list(activations.batches())
    inputs = (attention_input(x_SLD[batch], block, config) for batch in batches)
    qkv, qkv_outcome = quantize_linear(names[0], block.qkv_proj, plans[names[0]], inputs)
    project = qkv.floating()
    context = torch.empty(*x_SLD.shape[:2], config.query_rows)
    for batch in batches:
        query, key, value = split_heads(project(attention_input(x_SLD[batch], block, config)), config, rope)
        context[batch] = attend(query, key, value, None)
    o, o_outcome = quantize_linear(names[1], block.o_proj, plans[names[1]], (context[batch] for batch in batches))
    project = o.floating()
    for batch in batches:
        x_SLD[batch] = add_attention(x_SLD[batch], project(context[batch]), block, config)
    return (qkv, o), [qkv_outcome, o_outcome]


def _mlp_half(
    block: Block, names: Sequence[str], plans: dict[str, GroupPlan], config: GlmConfig, activations: Activations
) -> tuple[tuple[Linear, Linear], list[GroupOutcome]]:
    x_SLD, batches = activations.hidden_SLD, list(activations.batches())
    inputs = (mlp_input(x_SLD[batch], block, config) for batch in batches)
    gate_up, gate_up_outcome = quantize_linear(names[2], block.gate_up_proj, plans[names[2]], inputs)
    project = gate_up.floating()
    inner = torch.empty(*x_SLD.shape[:2], config.intermediate_size)
    for batch in batches:
        inner[batch] = gate(project(mlp_input(x_SLD[batch], block, config)))
    down, down_outcome = quantize_linear(names[3], block.down_proj, plans[names[3]], (inner[b] for b in batches))
    project = down.floating()
    for batch in batches:
        x_SLD[batch] = add_mlp(x_SLD[batch], project(inner[batch]), block, config)
    return (gate_up, down), [gate_up_outcome, down_outcome]


def _second_moment(inputs: Iterable[Tensor], columns: int) -> LayerStats:
    accumulator = HessianAccumulator(columns)
    for x in inputs:
        accumulator.add(x)
    return accumulator.result()


def _measure(
    name: str, plan: GroupPlan, weight_NK: Tensor, quantized: QuantTensor, stats: LayerStats | None
) -> GroupOutcome:
    lost_weight = whole_weight = lost_output = whole_output = 0.0
    start = 0
    for rows_NK in row_slices(weight_NK):
        difference_NK = quantized.rows(start, start + len(rows_NK)).dequantize().sub_(rows_NK)
        start += len(rows_NK)
        lost_weight += float(difference_NK.square().sum())
        whole_weight += float(rows_NK.square().sum())
        if stats is not None:
            lost_output += float(((difference_NK @ stats.hessian_KK) * difference_NK).sum())
            whole_output += float(((rows_NK @ stats.hessian_KK) * rows_NK).sum())
    output_error = None if stats is None else _ratio(lost_output, whole_output)
    return GroupOutcome(name, plan, _ratio(lost_weight, whole_weight), output_error)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
