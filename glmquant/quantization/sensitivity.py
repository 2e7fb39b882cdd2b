"""What each linear group would cost at each precision, measured one block at a time in the float model.

A group alone is rounded, and its block computed with it: the error is how far the residual stream after the block
moves, relative to its own size, which is how the next norm sees it. Rounding to scales chosen by the inputs' size
stands for every method; what matters to an allocation is how groups and precisions compare.

Shape suffixes: S samples, L tokens of a sample, B sequences of a batch, T tokens, D hidden, K input columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.qtensor import QuantTensor
from glmquant.core.ranks import ALONE, Ranks
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import mean_square
from glmquant.glm.block import Block
from glmquant.glm.linear import Linear
from glmquant.glm.model import ModelSource
from glmquant.glm.parts import Context, Part
from glmquant.glm.parts.routing import RoutedExperts
from glmquant.methods.grid import encode, search_grid
from glmquant.progress import Progress, silent
from glmquant.streaming.activations import Activations, ActivationStore, embed
from glmquant.streaming.forward import require_finite, walk

COARSE_CLIP_RATIOS = (1.0, 0.85, 0.7, 0.55, 0.4)
MEASURED_TOKENS = 1024
"""Of the calibration samples: enough to compare, and a block is passed through some twenty times."""

Sensitivities = dict[str, dict[QuantSpec, float]]


@torch.inference_mode()
def measure_sensitivities(
    source: ModelSource,
    choices: Mapping[str, Sequence[QuantSpec]],
    tokens_SL: Tensor,
    *,
    equalized: bool,
    device: torch.device = CPU,
    progress: Progress = silent,
    ranks: Ranks = ALONE,
) -> Sensitivities:
    """For each group of ``choices``, by name, each spec's relative squared error; float32, one block in memory.

    Args:
        device: what computes.
        equalized: blocks are to be equalized (:mod:`glmquant.glm.equalization`) before they are quantized.
        ranks: who shares the blocks; all get the whole of it.

    Raises:
        CalibrationError: token ids that are not the model's.
        CheckpointError: activations are not finite.
    """
    config, layers = source.config, source.config.num_hidden_layers
    activations = embed(tokens_SL, source.embedding(), config, ActivationStore(device=device))
    meter = SensitivityMeter(choices, equalized=equalized, layers=ranks.dealt(range(layers)))
    walk(
        source.block,
        range(layers),
        [activations],
        meter,
        device=device,
        progress=progress,
        stage="measuring sensitivities",
        total=layers,
    )
    return {name: errors for found in ranks.gather(meter.found) for name, errors in found.items()}


class SensitivityMeter:
    """A visitor: what rounding each linear group alone does to the residual stream.

    Args:
        equalized: see :func:`measure_sensitivities`.
        layers: blocks to measure, and only to pass the others; None for all.

    Attributes:
        found: errors so far.
    """

    def __init__(
        self,
        choices: Mapping[str, Sequence[QuantSpec]],
        *,
        equalized: bool,
        layers: Sequence[int] | None = None,
    ) -> None:
        self._choices, self._equalized, self._layers = choices, equalized, layers
        self.found: Sensitivities = {}

    def visit(self, layer: int, block: Block, streams: Sequence[Activations]) -> None:
        (stream,) = streams
        block = block.equalized(stream.config) if self._equalized else block.floating()
        passes = [_Pass(block, stream.hidden.read(batch).clone(), stream.context(batch)) for batch in stream.batches]
        if self._layers is None or layer in self._layers:
            self._measure(layer, block, passes)
        for batch, each in zip(stream.batches, passes, strict=True):
            require_finite(each.output_BTD, f"layers.{layer}")
            stream.hidden.write(batch, each.output_BTD)

    def _measure(self, layer: int, block: Block, passes: "Sequence[_Pass]") -> None:
        for place, part in enumerate(block.parts):
            self._measure_experts(place, part, passes)
            for step, (name, linear) in enumerate(part.linears.items()):
                group = f"layers.{layer}.{part.kind.scope}.{name}"
                importance_K = mean_square(part.seen(step, each.inputs[place][step]) for each in passes)
                for spec in self._choices.get(group, ()):
                    changed = part.with_linears({name: _rounded(linear, spec, importance_K)})
                    errors = [_relative(each.output_with(place, step, changed), each.output_BTD) for each in passes]
                    self.found.setdefault(group, {})[spec] = float(torch.cat(errors).mean())

    def _measure_experts(self, place: int, part: Part, passes: "Sequence[_Pass]") -> None:
        """All routed experts of a layer at a time; the inputs' sizes of the layer stand for those of each expert."""
        if part.experts is None:
            return
        for spec in self._choices.get(part.experts.unit, ()):
            changed = replace(part, experts=_rounded_experts(part.experts, spec, passes, place))
            errors = [_relative(each.output_of(place, changed), each.output_BTD) for each in passes]
            self.found.setdefault(part.experts.unit, {})[spec] = float(torch.cat(errors).mean())


class _Pass:
    """A batch on its way through a float block, kept where each linear layer reads it."""

    def __init__(self, block: Block, hidden_BTD: Tensor, context: Context) -> None:
        self._block, self._context = block, context
        self._before: list[Tensor] = []
        self._hidden: list[Tensor] = []
        self.inputs: list[list[Tensor]] = []
        for part in block.parts:
            self._before.append(hidden_BTD)
            hidden_BTD = part.with_experts_added(hidden_BTD, context.config)
            self._hidden.append(hidden_BTD)
            read: list[Tensor] = []
            x_BTD = part.read(self._before[-1], context.config)
            hidden_BTD = part.resume(hidden_BTD, 0, x_BTD, context, on_input=partial(_keep, read))
            self.inputs.append(read)
        self.output_BTD = hidden_BTD

    def output_of(self, place: int, changed: Part) -> Tensor:
        """What the block gives with a part changed as a whole."""
        hidden_BTD = changed.forward(self._before[place], self._context)
        for part in self._block.parts[place + 1 :]:
            hidden_BTD = part.forward(hidden_BTD, self._context)
        return hidden_BTD

    def output_with(self, place: int, step: int, changed: Part) -> Tensor:
        """What the block gives with a part changed from linear layer ``step`` on; only what follows is computed."""
        hidden_BTD = changed.resume(self._hidden[place], step, self.inputs[place][step], self._context)
        for part in self._block.parts[place + 1 :]:
            hidden_BTD = part.forward(hidden_BTD, self._context)
        return hidden_BTD


def _keep(inputs: list[Tensor], name: str, x: Tensor) -> None:
    inputs.append(x)


def _relative(ours_BTD: Tensor, theirs_BTD: Tensor) -> Tensor:
    """A value for each token."""
    return ((ours_BTD - theirs_BTD).square().sum(-1) / theirs_BTD.square().sum(-1).clamp(min=1e-12)).flatten()


def _rounded_experts(experts: RoutedExperts, spec: QuantSpec, passes: "Sequence[_Pass]", place: int) -> RoutedExperts:
    read_K = mean_square(each.inputs[place][0] for each in passes)

    def rounded(linear: Linear) -> Linear:
        columns = linear.weight.shape[1]
        return _rounded(linear, spec, read_K if columns == len(read_K) else torch.ones(columns, device=read_K.device))

    return experts.mapped(rounded)


def _rounded(linear: Linear, spec: QuantSpec, importance_K: Tensor) -> Linear:
    weight_NK = linear.dense()

    def rounded(rows_NK: Tensor) -> QuantTensor:
        return encode(rows_NK, *search_grid(rows_NK, spec, importance_K, COARSE_CLIP_RATIOS, ()), spec)

    return Linear(QuantTensor.from_strips(weight_NK, spec, rounded).dequantize(), linear.bias_N)
