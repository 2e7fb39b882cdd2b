"""One block, quantized linear layer by linear layer while the calibration samples pass through it once.

Each linear layer sees the inputs it will meet: those that the layers before it, already quantized, produce. The block
is cut where a linear layer's input appears, and what is there is kept, so each product is computed once.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from torch import Tensor

from glmquant.core.ranks import ALONE, Ranks
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Part
from glmquant.glm.rotary import largest_normed
from glmquant.quantization.error_propagation import LinearFit, Seen
from glmquant.quantization.expert_pass import quantize_experts
from glmquant.quantization.linear_pass import GroupOutcome, quantize_linear
from glmquant.recipe.plan import Plan
from glmquant.streaming.activations import Activations, ActivationTensor, Batch
from glmquant.streaming.experts import RoutedStream, routed
from glmquant.streaming.forward import require_finite


def quantize_block(
    block: Block,
    layer: int,
    plan: Plan,
    activations: Activations | None,
    reference: Activations | None = None,
    ranks: Ranks = ALONE,
    finished: Block | None = None,
) -> tuple[Block, list[GroupOutcome]]:
    """The block with its linear layers quantized; ``activations`` (if any) move on to the next block's inputs.

    Args:
        block: float.
        reference: the residual stream of the float model, where errors are propagated; it moves on, too.
        ranks: who shares the work, each with samples of its own. Routed experts are the first one's alone afterwards.
        finished: the same block as it was quantized before: the streams move on as they did then, bit for bit, and
            only routed experts are fitted again.
    """
    outcomes: list[GroupOutcome] = []
    parts = []
    for part, done in zip(block.parts, (None, None) if finished is None else finished.parts, strict=True):
        if activations is None:
            quantized, of_part = _rounded(part, layer, plan)
        else:
            linears = None if done is None else done.linears
            quantized, of_part = _PartPass(part, layer, plan, activations, reference, ranks, linears).quantize()
        parts.append(quantized)
        outcomes += of_part
    return Block(*parts), outcomes


def _rounded(part: Part, layer: int, plan: Plan) -> tuple[Part, list[GroupOutcome]]:
    """By methods that need no samples."""
    prefix = f"layers.{layer}.{part.kind.scope}."
    done = {n: quantize_linear(prefix + n, linear, plan[prefix + n], None) for n, linear in part.linears.items()}
    outcomes = [outcome for _, outcome in done.values()]
    quantized = part.with_linears({name: linear for name, (linear, _) in done.items()})
    if part.experts is None:
        return quantized, outcomes
    experts, outcome = quantize_experts(part.experts, plan, None, None)
    return replace(quantized, experts=experts), [*outcomes, outcome]


class _PartPass:
    """A part of a block, quantized linear layer by linear layer while the samples pass through it.

    ``stream`` holds the samples as quantized layers made them, ``reference`` as float ones did. ``finished`` are linear
    layers that were quantized before.
    """

    def __init__(
        self,
        part: Part,
        layer: int,
        plan: Plan,
        stream: Activations,
        reference: Activations | None,
        ranks: Ranks,
        finished: Mapping[str, Linear] | None = None,
    ) -> None:
        self._ranks = ranks
        self._part, self._layer, self._plan = part, layer, plan
        self._prefix = f"layers.{layer}.{part.kind.scope}."
        self._stream, self._reference = stream, reference
        self._fit, self._dtype = plan.recipe.fit, stream.dtype
        self._names, self._finished = list(part.linears), finished

    def quantize(self) -> tuple[Part, list[GroupOutcome]]:
        """All linear layers, routed experts first; the samples move on to after the part."""
        done: dict[str, Linear] = {}
        outcomes, of_experts = list[GroupOutcome](), list[GroupOutcome]()
        part = self._part
        with ExitStack() as stack:
            found: ActivationTensor | None = None
            wanted: ActivationTensor | None = None
            if part.experts is not None:
                here, there = self._routed(stack)
                found, wanted = here.x, None if there is None else there.x
                experts, outcome = quantize_experts(part.experts, self._plan, here, there, self._ranks)
                part, of_experts = replace(part, experts=experts), [outcome]
            for step, name in enumerate(self._names):
                if step:
                    came_from, was_wanted = found, wanted
                    width = self._part.kind.width(step, self._stream.config, self._layer)
                    found = stack.enter_context(self._stream.lend(width))
                    wanted = None if self._reference is None else stack.enter_context(self._reference.lend(width))
                    self._advance(step - 1, self._stream, done[self._names[step - 1]], came_from, found)
                    if self._reference is not None and wanted is not None:
                        float_linear = self._part.linears[self._names[step - 1]]
                        self._advance(step - 1, self._reference, float_linear, was_wanted, wanted)
                done[name], of_linear = self._quantized(name, self._fit_to(step, found, wanted))
                outcomes += of_linear
            self._finish(self._stream, done[self._names[-1]], found)
            if self._reference is not None:
                self._finish(self._reference, self._part.linears[self._names[-1]], wanted)
        return part.with_linears(done), outcomes + of_experts

    def _quantized(self, name: str, seen: LinearFit | None) -> tuple[Linear, list[GroupOutcome]]:
        if self._finished is not None:
            return self._finished[name], []
        unit = self._prefix + name
        linear, plan = self._part.linears[name], self._plan[unit]
        done, outcome = quantize_linear(unit, linear, plan, seen, self._dtype, self._ranks)
        return done, [outcome]

    def _routed(self, stack: ExitStack) -> tuple[RoutedStream, RoutedStream | None]:
        """Both streams, by what the quantized one's router chooses."""
        here = stack.enter_context(routed(self._part, self._stream))
        if self._reference is None:
            return here, None
        return here, stack.enter_context(routed(self._part, self._reference, here.chosen))

    def _fit_to(self, step: int, found: ActivationTensor | None, wanted: ActivationTensor | None) -> LinearFit | None:
        """What gathered the inputs of a linear layer, where its method needs them."""
        name = self._names[step]
        if self._finished is not None or not self._plan[self._prefix + name].needs_hessian:
            return None
        by_inputs = not self._writes(step)
        fit = LinearFit(
            self._part.linears[name],
            self._fit.error_propagation,
            by_inputs=by_inputs,
            dtype=self._dtype,
            ranks=self._ranks,
        )
        largest_K = None if step else largest_normed(self._part.gains[self._part.kind.input_norm])
        fit.gather(self._stream, lambda batch: self._seen(step, batch, found, wanted), largest_K)
        return fit

    def _writes(self, step: int) -> bool:
        """Whether a linear layer's output is added to the residual stream, its inputs being kept."""
        return step > 0 and step == len(self._names) - 1

    def _seen(self, step: int, batch: Batch, found: ActivationTensor | None, wanted: ActivationTensor | None) -> Seen:
        """What a linear layer meets; where it writes to the residual stream, tokens have weights, and what that stream
        falls short of already is to be made up for, too."""
        x = self._part.seen(step, self._input(self._stream, found, batch))
        weights = self._token_weights(batch) if self._writes(step) else None
        if self._reference is None:
            return Seen(x, weights=weights)
        lost = self._part.seen(step, self._input(self._reference, wanted, batch)) - x
        if not self._writes(step) or self._part.has_output_norm:
            return Seen(x, lost, weights=weights)
        offset = self._reference.hidden.read(batch) - self._stream.hidden.read(batch)
        return Seen(x, lost, offset, weights)

    def _input(self, stream: Activations, kept: ActivationTensor | None, batch: Batch) -> Tensor:
        """What stands before a linear layer: kept, or made anew from the residual stream."""
        if kept is not None:
            return kept.read(batch)
        return self._part.read(stream.hidden.read(batch), stream.config).to(self._dtype)

    def _advance(
        self,
        step: int,
        stream: Activations,
        linear: Linear,
        came_from: ActivationTensor | None,
        goes_to: ActivationTensor,
    ) -> None:
        """Computes what the linear layer after ``step`` reads, and keeps it."""
        project = linear.floating(self._dtype)
        for batch in stream.batches:
            state = self._input(stream, came_from, batch)
            output = project(self._part.seen(step, state))
            goes_to.write(batch, self._part.kind.between(step, output, state, self._part, stream.context(batch)))

    def _token_weights(self, batch: Batch) -> Tensor | None:
        if self._fit.token_weights == "uniform":
            return None
        hidden_BTD = self._stream.hidden.read(batch)
        return 1 / (hidden_BTD.square().mean(-1) + self._stream.config.rms_norm_eps)

    def _finish(self, stream: Activations, last: Linear, inputs: ActivationTensor | None) -> None:
        """Adds the last linear layer's output to the residual stream, which must stay finite."""
        project = last.floating(self._dtype)
        for batch in stream.batches:
            output = project(self._part.seen(len(self._names) - 1, self._input(stream, inputs, batch)))
            hidden_BTD = self._part.add(stream.hidden.read(batch), output, stream.config)
            require_finite(hidden_BTD, self._prefix.rstrip("."))
            stream.hidden.write(batch, hidden_BTD)
