"""One block: quantised linear by linear while the calibration samples pass through it once.

Each linear sees the inputs it will meet: those that the linears before it, already quantised, produce. The block is
cut where a linear's input appears, and what is there is kept, so each product is computed once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmquant.core.qtensor import QuantTensor, row_slices
from glmquant.core.stats import LayerStats, mean_square_output
from glmquant.errors import QuantizationError
from glmquant.glm.block import Block, Linear
from glmquant.glm.config import GlmConfig
from glmquant.pipeline.activations import Activations, SampleTensor
from glmquant.pipeline.compensate import LinearFit, without_bias
from glmquant.pipeline.stream import Stream
from glmquant.recipe.plan import GroupPlan
from glmquant.recipe.schema import FitOptions

ROWS_AT_ONCE = 2048
ROUNDED_ALONE = FitOptions()


@dataclass(frozen=True)
class GroupOutcome:
    """What quantising one linear group cost.

    Attributes:
        weight_error: ``‖W - Q‖² / ‖W‖²``, with ``W`` as it was to be quantised; None where the group is kept.
        output_error: ``E‖(W - Q) x‖² / E‖W x‖²`` over the calibration inputs; None where none were gathered.
        seconds: that the method and these errors took, whatever the number of samples.
    """

    name: str
    plan: GroupPlan
    weight_error: float | None = None
    output_error: float | None = None
    seconds: float = 0.0


def quantize_linear(
    name: str,
    linear: Linear,
    plan: GroupPlan,
    seen: LinearFit | None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Linear, GroupOutcome]:
    """The linear by its plan.

    Args:
        seen: what this linear is to be fitted to, where the plan's method needs it.
        dtype: of the products behind the outcome.
    """
    if plan.spec is None or plan.method is None:
        return linear, GroupOutcome(name, plan)
    if isinstance(linear.weight, QuantTensor):
        raise QuantizationError(
            "the linear is quantised already", where=name, expected="a float checkpoint", fix="start from the original"
        )
    started = time.monotonic()
    weight_NK, stats = (linear.weight, None) if seen is None else seen.result(linear.weight)
    quantized = plan.method.quantize(weight_NK, plan.spec, stats)
    outcome = _measure(name, plan, weight_NK, quantized, stats, dtype)
    return replace(linear, weight=quantized), replace(outcome, seconds=time.monotonic() - started)


def quantize_block(
    block: Block,
    names: Sequence[str],
    plans: dict[str, GroupPlan],
    config: GlmConfig,
    activations: Activations | None,
    *,
    fit: FitOptions = ROUNDED_ALONE,
    reference: Activations | None = None,
) -> tuple[Block, list[GroupOutcome]]:
    """The block with its linears quantised; ``activations`` (if any) move on to the next block's inputs.

    Args:
        names: of the block's four groups, in the order of :func:`glmquant.glm.config.block_groups`.
        reference: what the samples are in the float model, where ``fit.compensate`` needs them; they move on, too.
    """
    if activations is None:
        linears = (block.qkv_proj, block.o_proj, block.gate_up_proj, block.down_proj)
        done = [quantize_linear(n, linear, plans[n], None) for n, linear in zip(names, linears, strict=True)]
        (qkv, _), (o, _), (gate_up, _), (down, _) = done
        return replace(block, qkv_proj=qkv, o_proj=o, gate_up_proj=gate_up, down_proj=down), [
            outcome for _, outcome in done
        ]
    four = [plans[name] for name in names]
    attention, first = _attention_half(_Half(block, config, activations, reference, fit), names[:2], four[:2])
    mlp, second = _mlp_half(_Half(block, config, activations, reference, fit), names[2:], four[2:])
    qkv, o = attention
    gate_up, down = mlp
    return replace(block, qkv_proj=qkv, o_proj=o, gate_up_proj=gate_up, down_proj=down), [*first, *second]


Done = tuple[tuple[Linear, Linear], list[GroupOutcome]]


class _Half:
    """Half a block: the samples as quantised linears made them, and as float ones did where those are wanted.

    A half has a linear that reads the hidden states through a norm, and one that writes to them.
    """

    def __init__(
        self, block: Block, config: GlmConfig, activations: Activations, reference: Activations | None, fit: FitOptions
    ) -> None:
        self.block, self.fit = block, fit
        self.stream = Stream(block, config, activations)
        self.reference = None if reference is None else Stream(block, config, reference)
        self.batches, self.dtype = list(activations.batches()), activations.dtype
        self._adds_plainly = not config.sandwich_norms

    def reader(self, plan: GroupPlan, linear: Linear, inputs: Callable[[Stream, slice], Tensor]) -> LinearFit | None:
        """What the linear behind the norm is fitted to."""
        if not plan.needs_hessian:
            return None
        seen = LinearFit(linear, self.fit.compensate, by_inputs=True)
        for batch in self.batches:
            x = inputs(self.stream, batch)
            seen.add(x, None if self.reference is None else inputs(self.reference, batch) - x)
        return seen

    def writer(self, plan: GroupPlan, linear: Linear) -> LinearFit | None:
        """What the linear that writes to the hidden states is fitted to; :meth:`show` fills it."""
        return LinearFit(linear, self.fit.compensate, by_inputs=False) if plan.needs_hessian else None

    def show(self, seen: LinearFit, batch: slice, x: Tensor, wanted: Tensor | None, linear: Linear) -> None:
        """Adds inputs ``x`` of the writing linear, and what ``wanted``, the float model's, would have given more."""
        hidden = self.stream.activations.hidden.read(batch)
        weights = None
        if self.fit.token_weights == "relative":
            weights = 1 / (hidden.square().mean(-1) + self.stream.config.rms_norm_eps)
        lack = None
        if wanted is not None and self.reference is not None:
            lack = without_bias(linear)(wanted - x).float()
            if self._adds_plainly:
                lack += self.reference.activations.hidden.read(batch) - hidden
        seen.add(x, lack, weights)

    @contextmanager
    def lend(self, width: int) -> Iterator[tuple[SampleTensor, SampleTensor | None]]:
        """Room for the writing linear's inputs, and for the float model's."""
        with ExitStack() as stack:
            found = stack.enter_context(self.stream.activations.lend(width))
            wanted = None if self.reference is None else stack.enter_context(self.reference.activations.lend(width))
            yield found, wanted


def _attention_half(half: _Half, names: Sequence[str], plans: Sequence[GroupPlan]) -> Done:
    block, dtype, reference = half.block, half.dtype, half.reference
    seen = half.reader(plans[0], block.qkv_proj, Stream.qkv_input)
    qkv, qkv_outcome = quantize_linear(names[0], block.qkv_proj, plans[0], seen, dtype)
    with half.lend(half.stream.config.query_rows) as (found, wanted):
        seen = half.writer(plans[1], block.o_proj)
        _inputs_of_writer(half, Stream.o_input, qkv, block.qkv_proj, block.o_proj, seen, found, wanted)
        o, o_outcome = quantize_linear(names[1], block.o_proj, plans[1], seen, dtype)
        project, float_project = o.floating(dtype), block.o_proj.floating(dtype)
        for batch in half.batches:
            half.stream.add_attention(batch, project(found.read(batch)))
            if reference is not None and wanted is not None:
                reference.add_attention(batch, float_project(wanted.read(batch)))
    return (qkv, o), [qkv_outcome, o_outcome]


def _mlp_half(half: _Half, names: Sequence[str], plans: Sequence[GroupPlan]) -> Done:
    block, dtype, reference = half.block, half.dtype, half.reference
    seen = half.reader(plans[0], block.gate_up_proj, Stream.gate_up_input)
    gate_up, gate_up_outcome = quantize_linear(names[0], block.gate_up_proj, plans[0], seen, dtype)
    with half.lend(half.stream.config.intermediate_size) as (found, wanted):
        seen = half.writer(plans[1], block.down_proj)
        _inputs_of_writer(half, Stream.down_input, gate_up, block.gate_up_proj, block.down_proj, seen, found, wanted)
        down, down_outcome = quantize_linear(names[1], block.down_proj, plans[1], seen, dtype)
        project, float_project = down.floating(dtype), block.down_proj.floating(dtype)
        for batch in half.batches:
            half.stream.add_mlp(batch, project(found.read(batch)))
            if reference is not None and wanted is not None:
                reference.add_mlp(batch, float_project(wanted.read(batch)))
    return (gate_up, down), [gate_up_outcome, down_outcome]


def _inputs_of_writer(
    half: _Half,
    inputs: Callable[[Stream, slice, Linear], Tensor],
    reader: Linear,
    float_reader: Linear,
    writer: Linear,
    seen: LinearFit | None,
    found: SampleTensor,
    wanted: SampleTensor | None,
) -> None:
    """Computes what the writing linear reads from what ``reader`` gives, keeps it in ``found``, and shows it."""
    dtype, reference = half.dtype, half.reference
    project, float_project, output = reader.floating(dtype), float_reader.floating(dtype), writer.floating(dtype)
    for batch in half.batches:
        x = inputs(half.stream, batch, project)
        found.write(batch, x)
        float_x = None
        if reference is not None and wanted is not None:
            float_x = inputs(reference, batch, float_project)
            wanted.write(batch, float_x)
        if seen is not None:
            half.show(seen, batch, x, float_x, output)


def _measure(
    name: str,
    plan: GroupPlan,
    weight_NK: Tensor,
    quantized: QuantTensor,
    stats: LayerStats | None,
    dtype: torch.dtype,
) -> GroupOutcome:
    lost_weight = whole_weight = lost_output = whole_output = 0.0
    start = 0
    for rows_NK in row_slices(weight_NK):
        lost_weight += _square_sum(quantized.rows(start, start + len(rows_NK)).dequantize().sub_(rows_NK))
        whole_weight += _square_sum(rows_NK)
        start += len(rows_NK)
    if stats is None:
        return GroupOutcome(name, plan, _ratio(lost_weight, whole_weight))
    for start in range(0, len(weight_NK), ROWS_AT_ONCE):
        rows_NK = weight_NK[start : start + ROWS_AT_ONCE].float()
        whole_output += mean_square_output(rows_NK, stats, dtype)
        lost_NK = quantized.rows(start, start + len(rows_NK)).dequantize().sub_(rows_NK)
        lost_output += mean_square_output(lost_NK, stats, dtype)
    return GroupOutcome(name, plan, _ratio(lost_weight, whole_weight), _ratio(lost_output, whole_output))


def _square_sum(x: Tensor) -> float:
    flat = x.flatten()
    return float(torch.dot(flat, flat))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
