"""What each linear group would cost at each precision, measured one block at a time in the float model.

A group alone is rounded, and its block computed with it: the error is how far the residual stream after the block
moves, relative to its own size, which is how the next norm sees it. Rounding to scales chosen by the inputs' size
stands for every method; what matters to an allocation is how groups and precisions compare.

Shape suffixes: S samples, L tokens of a sample, D hidden size, K input columns.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import RangeAccumulator
from glmquant.glm.attention import attend
from glmquant.glm.block import (
    Linear,
    add_attention,
    add_mlp,
    attention_input,
    gate,
    mlp_input,
    split_heads,
)
from glmquant.glm.config import LinearGroup, block_groups
from glmquant.glm.equalization import equalize
from glmquant.methods.grid import encode, search_grid
from glmquant.progress import Progress, silent
from glmquant.store.checkpoint import Checkpoint
from glmquant.streaming.activations import Room, embed
from glmquant.streaming.block_stream import Stream

LINEARS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
COARSE = (1.0, 0.85, 0.7, 0.55, 0.4)
MEASURED_TOKENS = 1024
"""Of the calibration samples: enough to compare, and a block is passed through some twenty times."""

Sensitivities = dict[str, dict[QuantSpec, float]]


@torch.inference_mode()
def measure_sensitivities(
    checkpoint: Checkpoint,
    choices: Mapping[str, Sequence[QuantSpec]],
    tokens_SL: Tensor,
    *,
    evened: bool,
    device: torch.device = CPU,
    progress: Progress = silent,
) -> Sensitivities:
    """For each group of ``choices``, by name, each spec's relative squared error; float32, one block in memory.

    Args:
        device: what computes.
        evened: blocks are to be evened out (:func:`glmquant.glm.equalization.equalize`) before they are quantized.

    Raises:
        CalibrationError: token ids that are not the model's.
    """
    config = checkpoint.config
    activations = embed(tokens_SL, checkpoint.embedding(), config, Room(device=device))
    found: Sensitivities = {}
    for layer in range(config.num_hidden_layers):
        progress("measuring sensitivities", layer, config.num_hidden_layers)
        block = checkpoint.block(layer).to(device).floating()
        block = equalize(block, config) if evened else block
        found |= block_sensitivities(Stream(block, config, activations), block_groups(config, layer), choices)
        del block
    progress("measuring sensitivities", config.num_hidden_layers, config.num_hidden_layers)
    return found


def block_sensitivities(
    stream: Stream, groups: Sequence[LinearGroup], choices: Mapping[str, Sequence[QuantSpec]]
) -> Sensitivities:
    """Of the groups of one float block. The hidden states move on through it."""
    found: Sensitivities = {}
    whole = [_Passing(stream, batch) for batch in stream.activations.batches()]
    for group, linear in zip(groups, LINEARS, strict=True):
        importance_K = _mean_square([passing.inputs[linear] for passing in whole])
        for spec in choices.get(group.name, ()):
            rounded = _rounded(getattr(stream.block, linear), spec, importance_K)
            errors = [_relative(passing.output_with(linear, rounded), passing.output_BLD) for passing in whole]
            found.setdefault(group.name, {})[spec] = float(torch.cat(errors).mean())
    for batch, passing in zip(stream.activations.batches(), whole, strict=True):
        stream.activations.hidden.write(batch, passing.output_BLD)
    return found


class _Passing:
    """Samples on their way through a float block, kept where each linear reads them."""

    def __init__(self, stream: Stream, batch: slice) -> None:
        self._block, self._config, self._rope = stream.block, stream.config, stream.activations.rope
        self._before_BLD = stream.activations.hidden.read(batch).clone()
        self.inputs: dict[str, Tensor] = {}
        self.output_BLD = self._attention(self._block.qkv_proj, keep=True)

    def output_with(self, name: str, linear: Linear) -> Tensor:
        """What the block gives with ``linear`` in place of the one of that name; only what follows it is computed."""
        if name == "qkv_proj":
            return self._attention(linear)
        if name == "o_proj":
            return self._after_attention(linear(self.inputs["o_proj"]))
        if name == "gate_up_proj":
            return self._mlp(self._between_BLD, linear)
        return add_mlp(self._between_BLD, linear(self.inputs["down_proj"]), self._block, self._config)

    def _attention(self, qkv_proj: Linear, *, keep: bool = False) -> Tensor:
        x_BLD = attention_input(self._before_BLD, self._block, self._config)
        context = attend(*split_heads(qkv_proj(x_BLD), self._config, self._rope), None)
        if keep:
            self.inputs |= {"qkv_proj": x_BLD, "o_proj": context}
        return self._after_attention(self._block.o_proj(context), keep=keep)

    def _after_attention(self, output_BLD: Tensor, *, keep: bool = False) -> Tensor:
        between_BLD = add_attention(self._before_BLD, output_BLD, self._block, self._config)
        if keep:
            self._between_BLD = between_BLD
        return self._mlp(between_BLD, self._block.gate_up_proj, keep=keep)

    def _mlp(self, between_BLD: Tensor, gate_up_proj: Linear, *, keep: bool = False) -> Tensor:
        x_BLD = mlp_input(between_BLD, self._block, self._config)
        inner = gate(gate_up_proj(x_BLD))
        if keep:
            self.inputs |= {"gate_up_proj": x_BLD, "down_proj": inner}
        return add_mlp(between_BLD, self._block.down_proj(inner), self._block, self._config)


def _relative(ours_BLD: Tensor, theirs_BLD: Tensor) -> Tensor:
    """A value for each token."""
    return ((ours_BLD - theirs_BLD).square().sum(-1) / theirs_BLD.square().sum(-1).clamp(min=1e-12)).flatten()


def _rounded(linear: Linear, spec: QuantSpec, importance_K: Tensor) -> Linear:
    weight_NK = linear.dense()

    def rounded(rows_NK: Tensor) -> QuantTensor:
        return encode(rows_NK, *search_grid(rows_NK, spec, importance_K, COARSE, ()), spec)

    return Linear(QuantTensor.from_strips(weight_NK, spec, rounded).dequantize(), linear.bias_N)


def _mean_square(inputs: Sequence[Tensor]) -> Tensor:
    """Of each column."""
    seen = RangeAccumulator(inputs[0].shape[-1], inputs[0].device)
    for x in inputs:
        seen.add(x)
    return seen.result().mean_square_K
