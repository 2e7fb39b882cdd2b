"""How much there is to compute: floating-point operations, a multiplication and an addition each counted.

A product of ``[T, K]`` by ``[N, K]`` counts 2 T N K, a Hessian 2 T K² though half of it is mirrored, and what a method
makes of the Hessian K³. Attention's own products, norms and rounding are left out: they are a few percent.
"""

from collections.abc import Mapping, Sequence

from glmquant.glm.config import GlmConfig, LinearGroup, block_groups, linear_groups
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import Recipe


def forward_work(config: GlmConfig, layers: int, tokens: int) -> int:
    """Of ``tokens`` on their way through ``layers`` blocks."""
    return layers * sum(2 * tokens * group.rows * group.columns for group in block_groups(config, 0))


def quantize_work(config: GlmConfig, recipe: Recipe, layers: Sequence[int], tokens: int) -> int:
    """Of quantizing some of the blocks while ``tokens`` pass through them, through the float ones too where the recipe
    compensates; the products that compare the two are not counted."""
    plans, streams = resolve_rules(recipe.rules, linear_groups(config)), 2 if recipe.fit.error_propagation else 1
    hessians = (_hessian_work(group, plans, tokens) for layer in layers for group in block_groups(config, layer))
    return streams * forward_work(config, len(layers), tokens) + sum(hessians)


def _hessian_work(group: LinearGroup, plans: Mapping[str, GroupPlan], tokens: int) -> int:
    return (2 * tokens + group.columns) * group.columns**2 if plans[group.name].needs_hessian else 0
