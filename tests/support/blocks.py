"""Blocks from weights by their short names, and the forward pass of one block."""

from torch import Tensor

from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Context, Part, part_kinds
from glmquant.glm.rotary import Rotary


def make_block(config: GlmConfig, **weights: Linear | Tensor | None) -> Block:
    """A block of ``qkv_proj``, ``input_layernorm`` and so on; weights that such a block does not have are left out."""
    parts = []
    for kind in part_kinds(config, 0):
        names = [group.name.rpartition(".")[2] for group in kind.groups(config, 0)]
        gains = {name: weights[name] for name in kind.gain_sizes(config)}
        parts.append(Part(kind, {name: weights[name] for name in names}, gains))  # type: ignore[misc, arg-type]
    return Block(*parts)


def weights_of(block: Block) -> dict[str, Linear | Tensor]:
    """The inverse of :func:`make_block`."""
    return {name: weight for part in block.parts for name, weight in (*part.linears.items(), *part.gains.items())}


def block_forward(x_BTD: Tensor, block: Block, config: GlmConfig, rope: Rotary, mask: Tensor | None = None) -> Tensor:
    return block.forward(x_BTD, Context(config, rope, mask))
