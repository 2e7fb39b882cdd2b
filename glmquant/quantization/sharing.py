"""What several ranks share of quantizing a block, and what they exchange for it.

A rank has a run of the leaves of samples, and of each linear layer that is fitted a run of its slices of rows; of
routed experts, some. Every rank factorizes the same Hessians.

Shape suffixes: N output rows, K input columns.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import torch

from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import block_groups
from glmquant.glm.parts import part_kinds
from glmquant.quantization.error_propagation import SHARED_ROWS
from glmquant.quantization.work import tokens_of
from glmquant.recipe.plan import Plan
from glmquant.streaming.activations import leaf_starts

SUM_BYTES: Final = 8
"""Of an element of a sum over samples, float64."""
LOWER_HALF: Final = 9 / 16
"""Of a symmetric matrix, what is summed: the blocks on and below its diagonal, in eight strips."""
SCALE_BYTES: Final = 5
"""Of a group's float32 scale and its zero point."""


def largest_share(items: int, ranks: int) -> float:
    """Of ``items`` of even size, dealt to the ranks, the part that the one with most of them has."""
    return -(-items // ranks) / items if items else 1.0


def share_of_samples(samples: int, length: int, ranks: int) -> float:
    """Of the samples, those of the rank with most of them."""
    return largest_share(len(leaf_starts(samples, length)), ranks) if samples else 1.0


def share_of_rows(group: LinearGroup, ranks: int) -> float:
    """Of the rows of a fitted linear layer."""
    slices = -(-group.rows // SHARED_ROWS)
    return min(1.0, -(-slices // ranks) * SHARED_ROWS / group.rows)


def shared_seconds(plan: Plan, layer: int, seconds: Mapping[str, float], an_operation: float, ranks: int) -> float:
    """What methods take on the rank with most to do.

    Args:
        seconds: of each unit of the block, alone.
        an_operation: seconds; factors take no longer.
    """
    groups = {group.name: group for group in block_groups(plan.config, layer)}
    return sum(_unit_seconds(plan, unit, groups.get(unit), each, an_operation, ranks) for unit, each in seconds.items())


def _unit_seconds(
    plan: Plan, unit: str, group: LinearGroup | None, seconds: float, an_operation: float, ranks: int
) -> float:
    if group is None:  # routed experts
        experts = plan.config.experts
        return seconds * (1.0 if experts is None else largest_share(experts.count, ranks))
    if not (plan[unit].needs_hessian and getattr(plan[unit].method, "row_by_row", False)):
        return seconds
    factors = 2 if plan.recipe.fit.error_propagation else 1
    alone = min(seconds, factors * group.columns**3 / 3 * an_operation)
    return alone + (seconds - alone) * share_of_rows(group, ranks)


def sent_bytes(plan: Plan, layer: int, tokens: int, dtype: torch.dtype, ranks: int) -> int:
    """What a rank sends while a block is quantized.

    Of what is summed, ``2 (R - 1) / R``, as in a ring (Patarasuk and Yuan 2009, doi:10.1016/j.jpdc.2008.09.002); of the
    codes, its own to every other one, as long as the longest; of routed experts, tokens to the one that has them and
    back.
    """
    groups = block_groups(plan.config, layer)
    fitted = [group for group in groups if not group.shared_unit and plan[group.name].needs_hessian]
    summed = sum(_summed_bytes(group, plan, layer) for group in fitted)
    codes = sum(_code_bytes(group, plan) * share_of_rows(group, ranks) for group in fitted)
    routed = [group for group in groups if group.shared_unit]
    others, dealt = (ranks - 1) / ranks, _routed_bytes(routed, plan, tokens, dtype) / ranks
    return round(others * (2 * summed + dealt) + (ranks - 1) * codes)


def _summed_bytes(group: LinearGroup, plan: Plan, layer: int) -> float:
    """The Hessian, and where errors are propagated that of the outputs, or of the inputs."""
    hessian = LOWER_HALF * group.columns**2 * SUM_BYTES
    if not plan.recipe.fit.error_propagation:
        return hessian
    rows = group.rows if group.name in _writers(plan.config, layer) else group.columns
    return hessian + rows * group.columns * SUM_BYTES


def _writers(config: GlmConfig, layer: int) -> set[str]:
    """Linear layers whose output is added to the residual stream, and whose inputs are kept."""
    chains = [kind.groups(config, layer) for kind in part_kinds(config, layer)]
    return {chain[-1].name for chain in chains if len(chain) > 1}


def gathered_bytes(plan: Plan, layer: int, ranks: int) -> int:
    """Memory for codes as they come from all ranks, and joined, of the largest linear layer."""
    groups = block_groups(plan.config, layer)
    sizes = [_code_bytes(group, plan) for group in groups if not group.shared_unit and plan[group.name].needs_hessian]
    return 3 * max(sizes, default=0) if ranks > 1 else 0


def _code_bytes(group: LinearGroup, plan: Plan) -> int:
    spec = plan[group.name].spec
    assert spec is not None
    return group.num_weights + group.rows * spec.num_groups(group.columns) * SCALE_BYTES


def _routed_bytes(groups: Iterable[LinearGroup], plan: Plan, tokens: int, dtype: torch.dtype) -> int:
    """Inputs of the first linear layer of each expert, there and back, and its weights; of all ranks."""
    first = [group for group in groups if group.columns == plan.config.hidden_size]
    met = sum(tokens_of(group, plan.config, tokens) * group.columns * dtype.itemsize for group in first)
    return 2 * plan.num_streams * met + sum(group.num_weights for group in groups)
