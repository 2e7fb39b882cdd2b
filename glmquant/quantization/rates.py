"""How fast a stage was, said in the log when it ends."""

from collections.abc import Sequence

from glmquant.data.calibration import CalibrationSet
from glmquant.glm.config import linear_groups
from glmquant.quantization.work import quantize_work
from glmquant.recipe.plan import resolve_rules
from glmquant.recipe.schema import Recipe
from glmquant.store.checkpoint import Checkpoint


def quantize_rate(
    checkpoint: Checkpoint, recipe: Recipe, samples: CalibrationSet | None, layers: Sequence[int], seconds: float
) -> str:
    """How fast ``layers`` were quantized, in words."""
    plans = resolve_rules(recipe.rules, linear_groups(checkpoint.config))
    if samples is None or not any(plan.needs_hessian for plan in plans.values()):
        return f"quantized {checkpoint.tensor_bytes / 1e9:.2f} GB in {seconds:.1f} s"
    work = quantize_work(checkpoint.config, recipe, layers, samples.tokens_SL.numel())
    return rate("quantized", samples, work, seconds)


def rate(what: str, samples: CalibrationSet, work: int, seconds: float) -> str:
    """``work`` in floating-point operations."""
    tokens = samples.tokens_SL.numel()
    return (
        f"{what} with {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s, "
        f"{work / seconds / 1e9:,.0f} GFLOP/s"
    )
