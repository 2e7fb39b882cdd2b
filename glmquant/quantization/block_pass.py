"""One block, quantized linear layer by linear layer while the calibration samples pass through it once.

Each linear layer sees the inputs it will meet: those that the layers before it, already quantized, produce. The block
is cut where a linear layer's input appears, and what is there is kept, so each product is computed once.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import QuantTensor
from glmquant.core.stats import LayerStats, mean_square_output
from glmquant.errors import QuantizationError
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Part
from glmquant.quantization.error_propagation import LinearFit, without_bias
from glmquant.quantization.lazy_matrix import LazyMatrix, Squares, ratio, relative, square_sums
from glmquant.recipe.plan import GroupPlan, Plan
from glmquant.store.manifest import GroupRecord
from glmquant.streaming.activations import Activations, ActivationTensor, Batch
from glmquant.streaming.forward import require_finite

ROWS_AT_ONCE = 2048


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
    """The linear layer by its plan.

    Args:
        seen: what this layer is to be fitted to, where the plan's method needs it.
        dtype: of the products behind the outcome.
    """
    if plan.spec is None or plan.method is None:
        return linear, GroupOutcome(name, plan)
    weight_NK = require_float(name, linear)
    started = time.monotonic()
    if seen is None:
        squares: Squares = {}
        quantized = LazyMatrix(weight_NK, plan.spec, plan.method, squares).rows(0, len(weight_NK))
        outcome = GroupOutcome(name, plan, relative(squares))
    else:
        weight_NK, stats = seen.result(weight_NK)
        quantized = plan.method.quantize(weight_NK, plan.spec, stats)
        outcome = _measure(name, plan, weight_NK, quantized, stats, dtype)
    return replace(linear, weight=quantized), replace(outcome, seconds=time.monotonic() - started)


def require_float(name: str, linear: Linear) -> Tensor:
    """The linear layer's weight ``[N, K]``.

    Raises:
        QuantizationError: it is quantized already.
    """
    if not isinstance(linear.weight, Tensor):
        raise QuantizationError(
            "the linear layer is quantized already",
            where=name,
            expected="a float checkpoint",
            hint="start from the original",
        )
    return linear.weight


def quantize_block(
    block: Block,
    layer: int,
    plan: Plan,
    activations: Activations | None,
    reference: Activations | None = None,
) -> tuple[Block, list[GroupOutcome]]:
    """The block with its linear layers quantized; ``activations`` (if any) move on to the next block's inputs.

    Args:
        block: float.
        reference: the residual stream of the float model, where errors are propagated; it moves on, too.
    """
    if activations is None:
        done = {
            name: quantize_linear(f"layers.{layer}.{name}", linear, plan[f"layers.{layer}.{name}"], None)
            for name, linear in block.linears().items()
        }
        quantized = block.with_linears({name: linear for name, (linear, _) in done.items()})
        return quantized, [outcome for _, outcome in done.values()]
    outcomes: list[GroupOutcome] = []
    changed: dict[str, Linear] = {}
    for part in block.parts:
        scope = f"{part.kind.scope}."
        run = _PartPass(part, f"layers.{layer}.{scope}", plan, activations, reference)
        linears, of_part = run.quantize()
        changed |= {scope + name: linear for name, linear in linears.items()}
        outcomes += of_part
    return block.with_linears(changed), outcomes


class _PartPass:
    """A part of a block, quantized linear layer by linear layer while the samples pass through it.

    ``stream`` holds the samples as quantized layers made them, ``reference`` as float ones did.
    """

    def __init__(self, part: Part, prefix: str, plan: Plan, stream: Activations, reference: Activations | None) -> None:
        self._part, self._prefix, self._plan = part, prefix, plan
        self._stream, self._reference = stream, reference
        self._fit, self._dtype = plan.recipe.fit, stream.dtype
        self._names = list(part.linears)

    def quantize(self) -> tuple[dict[str, Linear], list[GroupOutcome]]:
        """All linear layers; the samples move on to after the part."""
        done: dict[str, Linear] = {}
        outcomes = []
        with ExitStack() as stack:
            found: ActivationTensor | None = None
            wanted: ActivationTensor | None = None
            seen = self._fit_to(0)
            if seen is not None:
                self._show_first(seen)
            for step, name in enumerate(self._names):
                done[name], outcome = quantize_linear(
                    self._prefix + name, self._part.linears[name], self._plan[self._prefix + name], seen, self._dtype
                )
                outcomes.append(outcome)
                if step + 1 < len(self._names):
                    width = self._part.linears[self._names[step + 1]].weight.shape[1]
                    came_from, was_wanted = found, wanted
                    found = stack.enter_context(self._stream.lend(width))
                    wanted = None if self._reference is None else stack.enter_context(self._reference.lend(width))
                    seen = self._fit_to(step + 1)
                    self._advance(step, done[name], (came_from, was_wanted), (found, wanted), seen)
            self._finish(self._stream, done[self._names[-1]], found)
            if self._reference is not None:
                self._finish(self._reference, self._part.linears[self._names[-1]], wanted)
        return done, outcomes

    def _fit_to(self, step: int) -> LinearFit | None:
        """What gathers the inputs of a linear layer, where its method needs them."""
        name = self._names[step]
        if not self._plan[self._prefix + name].needs_hessian:
            return None
        return LinearFit(self._part.linears[name], self._fit.error_propagation, by_inputs=not self._writes(step))

    def _writes(self, step: int) -> bool:
        """Whether a linear layer's output is added to the residual stream, its inputs being kept."""
        return step > 0 and step == len(self._names) - 1

    def _show_first(self, seen: LinearFit) -> None:
        for batch in self._stream.batches:
            x = self._input(self._stream, None, batch)
            seen.add(x, None if self._reference is None else self._input(self._reference, None, batch) - x)

    def _input(self, stream: Activations, kept: ActivationTensor | None, batch: Batch) -> Tensor:
        """What a linear layer reads: kept, or made anew from the residual stream."""
        if kept is not None:
            return kept.read(batch)
        return self._part.read(stream.hidden.read(batch), stream.config).to(self._dtype)

    def _advance(
        self,
        step: int,
        quantized: Linear,
        came_from: tuple[ActivationTensor | None, ActivationTensor | None],
        goes_to: tuple[ActivationTensor, ActivationTensor | None],
        seen: LinearFit | None,
    ) -> None:
        """Computes what the linear layer after ``step`` reads, keeps it, and shows it to what that is fitted to."""
        project = quantized.floating(self._dtype)
        error = None if self._reference is None else self._error(step, self._reference, came_from[1])
        for batch in self._stream.batches:
            inputs = project(self._input(self._stream, came_from[0], batch))
            x, missing = self._between(step, inputs, self._stream, batch), None
            goes_to[0].write(batch, x)
            if error is not None and goes_to[1] is not None:
                float_x, missing = error(batch, x)
                goes_to[1].write(batch, float_x)
            if seen is not None:
                weights = self._token_weights(batch) if self._writes(step + 1) else None
                seen.add(x, missing, weights)

    def _between(self, step: int, output: Tensor, stream: Activations, batch: Batch) -> Tensor:
        return self._part.kind.between(step, output, self._part, stream.context(batch))

    def _error(
        self, step: int, reference: Activations, came_from: ActivationTensor | None
    ) -> Callable[[Batch, Tensor], tuple[Tensor, Tensor]]:
        """Gives the float model's inputs of the next linear layer, and what ``x`` falls short of: of these inputs, or
        for a layer that writes to the residual stream of what they would add to it, with what it is short of already.
        """
        project = self._part.linears[self._names[step]].floating(self._dtype)
        output = without_bias(self._part.linears[self._names[step + 1]]).floating(self._dtype)

        def of(batch: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
            float_x = self._between(step, project(self._input(reference, came_from, batch)), reference, batch)
            if not self._writes(step + 1):
                return float_x, float_x - x
            missing = output(float_x - x).float()
            if not self._part.has_output_norm:
                missing += reference.hidden.read(batch) - self._stream.hidden.read(batch)
            return float_x, missing

        return of

    def _token_weights(self, batch: Batch) -> Tensor | None:
        if self._fit.token_weights == "uniform":
            return None
        hidden_BTD = self._stream.hidden.read(batch)
        return 1 / (hidden_BTD.square().mean(-1) + self._stream.config.rms_norm_eps)

    def _finish(self, stream: Activations, last: Linear, inputs: ActivationTensor | None) -> None:
        """Adds the last linear layer's output to the residual stream, which must stay finite."""
        project = last.floating(self._dtype)
        for batch in stream.batches:
            output = project(self._input(stream, inputs, batch))
            hidden_BTD = self._part.add(stream.hidden.read(batch), output, stream.config)
            require_finite(hidden_BTD, self._prefix.rstrip("."))
            stream.hidden.write(batch, hidden_BTD)


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
