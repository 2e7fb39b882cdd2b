"""One block: quantised linear by linear while the calibration samples pass through it once.

Each linear sees the inputs it will meet: those that the linears before it, already quantised, produce. The block is
cut where a linear's input appears, and what is there is kept, so each product is computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmquant.core.qtensor import QuantTensor
from glmquant.core.stats import HessianAccumulator, LayerStats, mean_square_output
from glmquant.errors import QuantizationError
from glmquant.glm.block import Block, Linear
from glmquant.glm.config import GlmConfig
from glmquant.pipeline.activations import Activations
from glmquant.pipeline.stream import Stream
from glmquant.recipe.plan import GroupPlan

ROWS_AT_ONCE = 2048


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
    name: str,
    linear: Linear,
    plan: GroupPlan,
    inputs: HessianAccumulator | None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Linear, GroupOutcome]:
    """The linear by its plan.

    Args:
        inputs: of this linear, added up, where the plan's method needs their Hessian.
        dtype: of the products behind the outcome.
    """
    if plan.spec is None or plan.method is None:
        return linear, GroupOutcome(name, plan)
    if isinstance(linear.weight, QuantTensor):
        raise QuantizationError(
            "the linear is quantised already", where=name, expected="a float checkpoint", fix="start from the original"
        )
    stats = None if inputs is None else inputs.result()
    quantized = plan.method.quantize(linear.weight, plan.spec, stats)
    outcome = _measure(name, plan, linear.weight, quantized, stats, dtype)
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
    stream = Stream(block, config, activations)
    four = [plans[name] for name in names]
    attention, first = _attention_half(stream, names[:2], four[:2])
    mlp, second = _mlp_half(stream, names[2:], four[2:])
    qkv, o = attention
    gate_up, down = mlp
    return replace(block, qkv_proj=qkv, o_proj=o, gate_up_proj=gate_up, down_proj=down), [*first, *second]


Halves = tuple[tuple[Linear, Linear], list[GroupOutcome]]


def _attention_half(stream: Stream, names: Sequence[str], plans: Sequence[GroupPlan]) -> Halves:
    block, activations = stream.block, stream.activations
    batches, dtype = list(activations.batches()), activations.dtype
    seen = _accumulator(plans[0], block.qkv_proj)
    if seen is not None:
        for batch in batches:
            seen.add(stream.qkv_input(batch))
    qkv, qkv_outcome = quantize_linear(names[0], block.qkv_proj, plans[0], seen, dtype)
    with activations.lend(stream.config.query_rows) as context:
        project, seen = qkv.floating(dtype), _accumulator(plans[1], block.o_proj)
        for batch in batches:
            found = stream.o_input(batch, project)
            context.write(batch, found)
            if seen is not None:
                seen.add(found)
        o, o_outcome = quantize_linear(names[1], block.o_proj, plans[1], seen, dtype)
        project = o.floating(dtype)
        for batch in batches:
            stream.add_attention(batch, project(context.read(batch)))
    return (qkv, o), [qkv_outcome, o_outcome]


def _mlp_half(stream: Stream, names: Sequence[str], plans: Sequence[GroupPlan]) -> Halves:
    block, activations = stream.block, stream.activations
    batches, dtype = list(activations.batches()), activations.dtype
    seen = _accumulator(plans[0], block.gate_up_proj)
    if seen is not None:
        for batch in batches:
            seen.add(stream.gate_up_input(batch))
    gate_up, gate_up_outcome = quantize_linear(names[0], block.gate_up_proj, plans[0], seen, dtype)
    with activations.lend(stream.config.intermediate_size) as inner:
        project, seen = gate_up.floating(dtype), _accumulator(plans[1], block.down_proj)
        for batch in batches:
            found = stream.down_input(batch, project)
            inner.write(batch, found)
            if seen is not None:
                seen.add(found)
        down, down_outcome = quantize_linear(names[1], block.down_proj, plans[1], seen, dtype)
        project = down.floating(dtype)
        for batch in batches:
            stream.add_mlp(batch, project(inner.read(batch)))
    return (gate_up, down), [gate_up_outcome, down_outcome]


def _accumulator(plan: GroupPlan, linear: Linear) -> HessianAccumulator | None:
    return HessianAccumulator(linear.weight.shape[1]) if plan.needs_hessian else None


def _measure(
    name: str,
    plan: GroupPlan,
    weight_NK: Tensor,
    quantized: QuantTensor,
    stats: LayerStats | None,
    dtype: torch.dtype,
) -> GroupOutcome:
    lost_weight = whole_weight = lost_output = whole_output = 0.0
    for start in range(0, len(weight_NK), ROWS_AT_ONCE):
        rows_NK = weight_NK[start : start + ROWS_AT_ONCE].float()
        difference_NK = quantized.rows(start, start + len(rows_NK)).dequantize().sub_(rows_NK)
        lost_weight += float(difference_NK.square().sum())
        whole_weight += float(rows_NK.square().sum())
        if stats is not None:
            lost_output += mean_square_output(difference_NK, stats, dtype)
            whole_output += mean_square_output(rows_NK, stats, dtype)
    output_error = None if stats is None else _ratio(lost_output, whole_output)
    return GroupOutcome(name, plan, _ratio(lost_weight, whole_weight), output_error)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
