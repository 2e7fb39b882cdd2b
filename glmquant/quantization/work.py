"""How much there is to compute, and how fast it was: floating-point operations, a multiplication and an addition each.

A product of ``[T, K]`` by ``[N, K]`` counts 2 T N K, a Hessian 2 T K² though half of it is mirrored, and what a method
makes of the Hessian K³. Attention's own products, norms and rounding are left out: they are a few percent.
"""

from collections.abc import Sequence

from glmquant.data.calibration import CalibrationSet
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import block_groups
from glmquant.recipe.plan import Plan
from glmquant.store.checkpoint import Checkpoint


def forward_work(config: GlmConfig, layers: Sequence[int], tokens: int) -> int:
    """Of ``tokens`` on their way through some blocks."""
    groups = (group for layer in layers for group in block_groups(config, layer))
    return sum(2 * tokens_of(group, config, tokens) * group.num_weights for group in groups)


def tokens_of(group: LinearGroup, config: GlmConfig, tokens: int) -> int:
    """How many of ``tokens`` pass through a linear group: of a routed expert's, its even share."""
    if group.shared_unit is None or config.experts is None:
        return tokens
    return tokens * config.experts.per_token // config.experts.count


def quantize_work(plan: Plan, layers: Sequence[int], tokens: int) -> int:
    """Of quantizing some of the blocks while ``tokens`` pass through them, through the float ones too where errors are
    propagated; the products that compare the two are not counted."""
    hessians = (_hessian_work(group, plan, tokens) for layer in layers for group in plan.block_groups(layer))
    return plan.num_streams * forward_work(plan.config, layers, tokens) + sum(hessians)


def _hessian_work(group: LinearGroup, plan: Plan, tokens: int) -> int:
    seen = tokens_of(group, plan.config, tokens)
    return (2 * seen + group.columns) * group.columns**2 if plan[group.unit].needs_hessian else 0


def quantize_rate(
    checkpoint: Checkpoint, plan: Plan, samples: CalibrationSet | None, layers: Sequence[int], seconds: float
) -> str:
    """How fast ``layers`` were quantized, in words."""
    if samples is None or plan.first_fitted is None:
        return f"quantized {checkpoint.tensor_bytes / 1e9:.2f} GB in {seconds:.1f} s"
    return rate("quantized", samples, quantize_work(plan, layers, samples.tokens_SL.numel()), seconds)


def rate(what: str, samples: CalibrationSet, work: int, seconds: float) -> str:
    """``work`` in floating-point operations."""
    tokens = samples.tokens_SL.numel()
    return (
        f"{what} with {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s, "
        f"{work / seconds / 1e9:,.0f} GFLOP/s"
    )
