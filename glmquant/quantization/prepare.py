"""What quantizing starts from: a checkpoint's weights as floats, evened out where the recipe says so."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from glmquant.glm.block import Block, Linear
from glmquant.glm.config import block_groups
from glmquant.glm.equalization import equalize, equalize_norm
from glmquant.recipe.plan import GroupPlan
from glmquant.recipe.schema import FitOptions
from glmquant.store.checkpoint import Checkpoint


def float_block(checkpoint: Checkpoint, layer: int, plans: Mapping[str, GroupPlan], fit: FitOptions) -> Block:
    """A block as its publisher computes with it, published rows expanded; evened where ``fit.equalize``."""
    block = checkpoint.block(layer)
    if checkpoint.is_quantized:
        block = block.floating(getattr(torch, checkpoint.config.float_dtype))
    if not fit.equalize:
        return block
    quantized = [plans[group.name].spec is not None for group in block_groups(checkpoint.config, layer)]
    return _kept_as_published(equalize(block, checkpoint.config), block, quantized)


def float_head(checkpoint: Checkpoint, plan: GroupPlan, fit: FitOptions) -> tuple[Tensor, Linear]:
    """The last norm's gain and ``lm_head``; evened where ``fit.equalize`` and ``plan`` quantizes it."""
    norm_D, linear = checkpoint.final_norm(), checkpoint.lm_head()
    return equalize_norm(norm_D, linear) if fit.equalize and plan.spec is not None else (norm_D, linear)


def _kept_as_published(evened: Block, block: Block, quantized: Sequence[bool]) -> Block:
    """Weights of linears that are not quantized back in the dtype they came in."""
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    kept = [name for name, done in zip(names, quantized, strict=True) if not done]
    return replace(evened, **{name: getattr(evened, name).floating(getattr(block, name).weight.dtype) for name in kept})
