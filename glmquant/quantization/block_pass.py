"""One block: quantized linear by linear while the calibration samples pass through it once.

Each linear sees the inputs it will meet: those that the linears before it, already quantized, produce. The block is
cut where a linear's input appears, and what is there is kept, so each product is computed once.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import QuantTensor
from glmquant.core.stats import LayerStats, mean_square_output
from glmquant.errors import QuantizationError
from glmquant.glm.block import Block, Linear
from glmquant.glm.config import GlmConfig
from glmquant.quantization.error_propagation import LinearFit, without_bias
from glmquant.quantization.lazy_matrix import RowwiseMatrix, Squares, ratio, relative, square_sums
from glmquant.recipe.plan import GroupPlan
from glmquant.recipe.schema import FitOptions
from glmquant.store.manifest import GroupRecord
from glmquant.streaming.activations import Activations, SampleTensor
from glmquant.streaming.block_stream import Stream

ROWS_AT_ONCE = 2048
ROUNDED_ALONE = FitOptions()


@dataclass(frozen=True)
class GroupOutcome:
    """What quantizing one linear group cost.

    Attributes:
        weight_error: ``‖W - Q‖² / ‖W‖²``, with ``W`` as it was to be quantized; None where the group is kept.
        output_error: ``E‖(W - Q) x‖² / E‖W x‖²`` over the calibration inputs; None where none were gathered.
        seconds: that the method and these errors took, whatever the number of samples.
    """

    name: str
    plan: GroupPlan
    weight_error: float | None = None
    output_error: float | None = None
    seconds: float = 0.0

    @property
    def record(self) -> GroupRecord:
        """What an artifact's manifest says of it."""
        kind = None if self.plan.method is None else self.plan.method.kind
        return GroupRecord(self.name, self.plan.spec, kind, self.weight_error, self.output_error)


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
    weight_NK = require_float(name, linear)
    started = time.monotonic()
    if seen is None:
        squares: Squares = {}
        quantized = RowwiseMatrix(weight_NK, plan.spec, plan.method, squares).rows(0, len(weight_NK))
        outcome = GroupOutcome(name, plan, relative(squares))
    else:
        weight_NK, stats = seen.result(weight_NK)
        quantized = plan.method.quantize(weight_NK, plan.spec, stats)
        outcome = _measure(name, plan, weight_NK, quantized, stats, dtype)
    return replace(linear, weight=quantized), replace(outcome, seconds=time.monotonic() - started)


def require_float(name: str, linear: Linear) -> Tensor:
    """The linear's weight ``[N, K]``.

    Raises:
        QuantizationError: it is quantized already.
    """
    if not isinstance(linear.weight, Tensor):
        raise QuantizationError(
            "the linear is quantized already", where=name, expected="a float checkpoint", fix="start from the original"
        )
    return linear.weight


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
    """The block with its linears quantized; ``activations`` (if any) move on to the next block's inputs.

    Args:
        names: of the block's four groups, in the order of :func:`glmquant.glm.config.block_groups`.
        reference: what the samples are in the float model, where ``fit.error_propagation`` needs it; they move on, too.
    """
    if activations is None:
        linears = (block.qkv_proj, block.o_proj, block.gate_up_proj, block.down_proj)
        done = [quantize_linear(n, linear, plans[n], None) for n, linear in zip(names, linears, strict=True)]
        (qkv, _), (o, _), (gate_up, _), (down, _) = done
        return replace(block, qkv_proj=qkv, o_proj=o, gate_up_proj=gate_up, down_proj=down), [
            outcome for _, outcome in done
        ]
    done_block, outcomes = block, list[GroupOutcome]()
    for part, of_part in zip((ATTENTION, MLP), (names[:2], names[2:]), strict=True):
        half = _Half(part, block, config, activations, reference, fit)
        reader, writer, both = half.quantize(of_part, [plans[name] for name in of_part])
        changed: dict[str, Any] = {part.reader: reader, part.writer: writer}
        done_block, outcomes = replace(done_block, **changed), [*outcomes, *both]
    return done_block, outcomes


@dataclass(frozen=True)
class _Part:
    """Half a block: a linear that reads the hidden states through a norm, and one that writes to them.

    Attributes:
        reads: the reading linear's input.
        gives: the writing linear's input, from what the reading one makes of that.
        adds: its output to the hidden states.
    """

    reader: str
    writer: str
    reads: Callable[[Stream, slice], Tensor]
    gives: Callable[[Stream, slice, Linear], Tensor]
    adds: Callable[[Stream, slice, Tensor], None]


ATTENTION = _Part("qkv_proj", "o_proj", Stream.qkv_input, Stream.o_input, Stream.add_attention)
MLP = _Part("gate_up_proj", "down_proj", Stream.gate_up_input, Stream.down_input, Stream.add_mlp)


class _Half:
    """A part of a block with the samples as quantized linears made them, and as float ones did where wanted."""

    def __init__(
        self,
        part: _Part,
        block: Block,
        config: GlmConfig,
        activations: Activations,
        reference: Activations | None,
        fit: FitOptions,
    ) -> None:
        self._part, self._fit = part, fit
        self._reader, self._writer = getattr(block, part.reader), getattr(block, part.writer)
        self._stream = Stream(block, config, activations)
        self._reference = None if reference is None else Stream(block, config, reference)
        self._batches, self._dtype = list(activations.batches()), activations.dtype
        self._adds_plainly = not config.sandwich_norms

    def quantize(
        self, names: Sequence[str], plans: Sequence[GroupPlan]
    ) -> tuple[Linear, Linear, tuple[GroupOutcome, GroupOutcome]]:
        """Both linears; the samples move on to after them."""
        seen = self._seen_by_reader() if plans[0].needs_hessian else None
        reader, first = quantize_linear(names[0], self._reader, plans[0], seen, self._dtype)
        with ExitStack() as stack:
            width = self._writer.weight.shape[1]
            found = stack.enter_context(self._stream.activations.lend(width))
            wanted = None if self._reference is None else stack.enter_context(self._reference.activations.lend(width))
            seen = (
                LinearFit(self._writer, self._fit.error_propagation, by_inputs=False)
                if plans[1].needs_hessian
                else None
            )
            self._pass_reader(reader, found, wanted, seen)
            writer, second = quantize_linear(names[1], self._writer, plans[1], seen, self._dtype)
            self._pass_writer(self._stream, writer, found)
            if self._reference is not None and wanted is not None:
                self._pass_writer(self._reference, self._writer, wanted)
        return reader, writer, (first, second)

    def _seen_by_reader(self) -> LinearFit:
        seen = LinearFit(self._reader, self._fit.error_propagation, by_inputs=True)
        for batch in self._batches:
            x = self._part.reads(self._stream, batch)
            seen.add(x, None if self._reference is None else self._part.reads(self._reference, batch) - x)
        return seen

    def _pass_reader(
        self, reader: Linear, found: SampleTensor, wanted: SampleTensor | None, seen: LinearFit | None
    ) -> None:
        """Computes what the writing linear reads, keeps it, and shows it to what that is fitted to."""
        project = reader.floating(self._dtype)
        drift = None if self._reference is None else self._drift(self._reference)
        for batch in self._batches:
            x, lack = self._part.gives(self._stream, batch, project), None
            found.write(batch, x)
            if drift is not None and wanted is not None:
                float_x, lack = drift(batch, x)
                wanted.write(batch, float_x)
            if seen is not None:
                hidden = self._stream.activations.hidden.read(batch)
                seen.add(x, lack, self._token_weights(hidden))

    def _drift(self, reference: Stream) -> Callable[[slice, Tensor], tuple[Tensor, Tensor]]:
        """Gives the float model's inputs of the writing linear, and what they would add to the hidden states beyond
        what ``x`` adds, with what these lack already."""
        project, output = self._reader.floating(self._dtype), without_bias(self._writer).floating(self._dtype)

        def of(batch: slice, x: Tensor) -> tuple[Tensor, Tensor]:
            float_x = self._part.gives(reference, batch, project)
            lack = output(float_x - x).float()
            if self._adds_plainly:
                lack += reference.activations.hidden.read(batch) - self._stream.activations.hidden.read(batch)
            return float_x, lack

        return of

    def _token_weights(self, hidden_BLD: Tensor) -> Tensor | None:
        if self._fit.token_weights == "uniform":
            return None
        return 1 / (hidden_BLD.square().mean(-1) + self._stream.config.rms_norm_eps)

    def _pass_writer(self, stream: Stream, writer: Linear, inputs: SampleTensor) -> None:
        project = writer.floating(self._dtype)
        for batch in self._batches:
            self._part.adds(stream, batch, project(inputs.read(batch)))


def _measure(
    name: str, plan: GroupPlan, weight_NK: Tensor, quantized: QuantTensor, stats: LayerStats, dtype: torch.dtype
) -> GroupOutcome:
    def squares(part: slice) -> tuple[int, tuple[float, float]]:
        return part.start, square_sums(weight_NK[part].float(), quantized.rows(part.start, part.stop))

    rows, columns = weight_NK.shape
    weight_error = relative(dict(over_strips(squares, rows, columns, weight_NK.device)))
    lost_output = whole_output = 0.0
    for start in range(0, rows, ROWS_AT_ONCE):
        rows_NK = weight_NK[start : start + ROWS_AT_ONCE].float()
        whole_output += mean_square_output(rows_NK, stats, dtype)
        lost_NK = quantized.rows(start, start + len(rows_NK)).dequantize().sub_(rows_NK)
        lost_output += mean_square_output(lost_NK, stats, dtype)
    return GroupOutcome(name, plan, weight_error, ratio(lost_output, whole_output))
