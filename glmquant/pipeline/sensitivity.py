"""What each linear group would cost at each precision, measured one block at a time in the float model.

A group alone is rounded, and its block computed with it: the error is how far the residual stream after the block
moves, relative to its own size, which is how the next norm sees it. Rounding to scales chosen by the inputs' size
stands for every method; what matters to an allocation is how groups and precisions compare.

Shape suffixes: S samples, L tokens of a sample, D hidden size, K input columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from glmquant.core.spec import QuantSpec
from glmquant.core.stats import RangeAccumulator
from glmquant.glm.block import Block, Linear, block_forward
from glmquant.glm.config import LinearGroup, block_groups
from glmquant.glm.equalize import equalize
from glmquant.methods.grid import SHRINKS, encode, search_grid
from glmquant.pipeline.activations import Activations, embed
from glmquant.pipeline.stream import Stream
from glmquant.progress import Progress, silent
from glmquant.store.checkpoint import Checkpoint

LINEARS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
COARSE = SHRINKS[::6]
Sensitivities = dict[str, dict[QuantSpec, float]]


@torch.inference_mode()
def measure_sensitivities(
    checkpoint: Checkpoint,
    choices: Mapping[str, Sequence[QuantSpec]],
    tokens_SL: Tensor,
    *,
    evened: bool,
    progress: Progress = silent,
) -> Sensitivities:
    """For each group of ``choices``, by name, each spec's relative squared error; float32, one block in memory.

    Args:
        evened: blocks are to be evened out (:func:`glmquant.glm.equalize.equalize`) before they are quantised.

    Raises:
        CalibrationError: token ids that are not the model's.
    """
    config = checkpoint.config
    activations = embed(tokens_SL, checkpoint.embedding(), config)
    found: Sensitivities = {}
    for layer in range(config.num_hidden_layers):
        progress("measuring sensitivities", layer, config.num_hidden_layers)
        block = checkpoint.block(layer).floating()
        block = equalize(block, config) if evened else block
        found |= _of_block(Stream(block, config, activations), block_groups(config, layer), choices)
    progress("measuring sensitivities", config.num_hidden_layers, config.num_hidden_layers)
    return found


def _of_block(
    stream: Stream, groups: Sequence[LinearGroup], choices: Mapping[str, Sequence[QuantSpec]]
) -> Sensitivities:
    """Moves the hidden states on through the block, too."""
    block, activations = stream.block, stream.activations
    importance = _mean_squares(stream)
    before = [activations.hidden.read(batch).clone() for batch in activations.batches()]
    after = [_forward(stream, block, x_BLD) for x_BLD in before]
    found: Sensitivities = {}
    for group, linear in zip(groups, LINEARS, strict=True):
        for spec in choices.get(group.name, ()):
            changed: dict[str, Any] = {linear: _rounded(getattr(block, linear), spec, importance[linear])}
            moved = replace(block, **changed)
            errors = [_relative(_forward(stream, moved, x), y) for x, y in zip(before, after, strict=True)]
            found.setdefault(group.name, {})[spec] = float(torch.cat(errors).mean())
    for batch, y_BLD in zip(activations.batches(), after, strict=True):
        activations.hidden.write(batch, y_BLD)
    return found


def _forward(stream: Stream, block: Block, x_BLD: Tensor) -> Tensor:
    return block_forward(x_BLD, block, stream.config, stream.activations.rope)


def _relative(ours_BLD: Tensor, theirs_BLD: Tensor) -> Tensor:
    """A value for each token."""
    return ((ours_BLD - theirs_BLD).square().sum(-1) / theirs_BLD.square().sum(-1).clamp(min=1e-12)).flatten()


def _rounded(linear: Linear, spec: QuantSpec, importance_K: Tensor) -> Linear:
    weight_NK = linear.dense()
    quantized = encode(weight_NK, *search_grid(weight_NK, spec, importance_K, COARSE), spec)
    return Linear(quantized.dequantize(), linear.bias_N)


def _mean_squares(stream: Stream) -> dict[str, Tensor]:
    """Of each linear's inputs, by column. Leaves the hidden states as they were."""
    block = stream.block
    ranges = {name: RangeAccumulator(getattr(block, name).weight.shape[1]) for name in LINEARS}
    kept: Activations = stream.activations
    for batch in kept.batches():
        before = kept.hidden.read(batch).clone()
        ranges["qkv_proj"].add(stream.qkv_input(batch))
        context = stream.o_input(batch, block.qkv_proj)
        ranges["o_proj"].add(context)
        stream.add_attention(batch, block.o_proj(context))
        ranges["gate_up_proj"].add(stream.gate_up_input(batch))
        ranges["down_proj"].add(stream.down_input(batch, block.gate_up_proj))
        kept.hidden.write(batch, before)
    return {name: accumulator.result().mean_square_K for name, accumulator in ranges.items()}
