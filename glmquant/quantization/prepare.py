"""What quantizing starts from: a checkpoint's weights as floats, equalized where the recipe says so."""

from dataclasses import replace

import torch
from torch import Tensor

from glmquant.glm.block import Block
from glmquant.glm.equalization import equalize_norm
from glmquant.glm.groups import head_group
from glmquant.glm.linear import Linear
from glmquant.glm.parts import Part
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint


def float_block(checkpoint: Checkpoint, layer: int, plan: Plan) -> Block:
    """A block as its publisher computes with it, published rows expanded; equalized where ``fit.equalize``."""
    block = checkpoint.block(layer)
    if checkpoint.is_quantized:
        block = block.floating(getattr(torch, checkpoint.config.float_dtype))
    if not plan.recipe.fit.equalize:
        return block
    pairs = zip(block.parts, block.equalized(checkpoint.config).parts, strict=True)
    return Block(*(_where_quantized(part, equalized, layer, plan) for part, equalized in pairs))


def _where_quantized(part: Part, equalized: Part, layer: int, plan: Plan) -> Part:
    """The equalized part, linear layers that stay float in the dtype they came in. That rounds them anew, so a part
    with nothing to quantize stays as it came; so do routed experts, beside which nothing is changed for their sake."""
    prefix = f"layers.{layer}.{part.kind.scope}."
    routed = part.experts is not None and plan[part.experts.unit].spec is not None
    experts = (equalized if routed else part).experts
    kept = {name: linear for name, linear in part.linears.items() if plan[prefix + name].spec is None}
    if len(kept) == len(part.linears):
        return replace(part, experts=experts)
    stored = {
        name: equalized.linears[name].floating(linear.weight.dtype)  # type: ignore[union-attr]
        for name, linear in kept.items()
    }
    return replace(equalized.with_linears(stored), experts=experts)


def float_head(checkpoint: Checkpoint, plan: Plan) -> tuple[Tensor, Linear]:
    """The last norm's gain and ``lm_head``; equalized where ``fit.equalize`` and the plan quantizes it."""
    norm_D, linear = checkpoint.final_norm(), checkpoint.lm_head()
    quantized = plan[head_group(checkpoint.config).name].spec is not None
    return equalize_norm(norm_D, linear) if plan.recipe.fit.equalize and quantized else (norm_D, linear)
