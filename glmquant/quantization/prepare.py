"""What quantizing starts from: a checkpoint's weights as floats, equalized where the recipe says so."""

from dataclasses import replace

import torch
from torch import Tensor

from glmquant.glm.block import Block
from glmquant.glm.equalization import equalize_norm
from glmquant.glm.groups import head_group
from glmquant.glm.linear import Linear
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint


def float_block(checkpoint: Checkpoint, layer: int, plan: Plan) -> Block:
    """A block as its publisher computes with it, published rows expanded; equalized where ``fit.equalize``."""
    block = checkpoint.block(layer)
    if checkpoint.is_quantized:
        block = block.floating(getattr(torch, checkpoint.config.float_dtype))
    if not plan.recipe.fit.equalize:
        return block
    equalized = block.equalized(checkpoint.config)
    kept = {name for name in block.linears() if plan[f"layers.{layer}.{name}"].spec is None}
    return _kept_experts(equalized.with_linears(_in_stored_dtype(equalized, block, kept)), block, layer, plan)


def _kept_experts(equalized: Block, block: Block, layer: int, plan: Plan) -> Block:
    """Routed experts that are not quantized stay as they came: nothing beside them was changed."""
    unit = f"layers.{layer}.{block.mlp.kind.scope}.experts"
    if block.mlp.experts is None or plan[unit].spec is not None:
        return equalized
    return replace(equalized, mlp=replace(equalized.mlp, experts=block.mlp.experts))


def float_head(checkpoint: Checkpoint, plan: Plan) -> tuple[Tensor, Linear]:
    """The last norm's gain and ``lm_head``; equalized where ``fit.equalize`` and the plan quantizes it."""
    norm_D, linear = checkpoint.final_norm(), checkpoint.lm_head()
    quantized = plan[head_group(checkpoint.config).name].spec is not None
    return equalize_norm(norm_D, linear) if plan.recipe.fit.equalize and quantized else (norm_D, linear)


def _in_stored_dtype(equalized: Block, block: Block, kept: set[str]) -> dict[str, Linear]:
    """Linear layers that are not quantized, in the dtype they came in."""
    stored = block.linears()
    return {
        name: linear.floating(stored[name].weight.dtype)  # type: ignore[union-attr]
        for name, linear in equalized.linears().items()
        if name in kept
    }
