"""How much memory the passes over a model need.

Shape suffixes: N output rows, K input columns.
"""

import torch

from glmquant.core.pages import KEPT_BYTES
from glmquant.core.parallel import STRIP_ELEMENTS
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import head_group
from glmquant.methods.gptq import ROWS_AT_ONCE
from glmquant.quantization.sensitivity import MEASURED_TOKENS
from glmquant.recipe.plan import GroupPlan, Plan
from glmquant.streaming.activations import TOKENS_AT_ONCE
from glmquant.streaming.memory import (
    FLOAT_BYTES,
    STORED_BYTES,
    held_groups,
    num_weights,
    table_bytes,
    unlike_layers,
)


def quantize_bytes(plan: Plan, dtype: torch.dtype) -> int:
    """What quantizing holds, activations apart: a block and the next one as stored (in float32 if equalized), codes,
    those of the block before as they are written, the pages of matrices that ended, and for the linear layer at work
    its Hessian, that one's factor, and slices of rows; before that, what an allocation is measured in."""
    layers = range(plan.config.num_hidden_layers)
    return max(
        table_bytes(plan.config),
        _head_bytes(plan),
        allocate_bytes(plan.config) if plan.recipe.allocate else 0,
        *(_quantized_block_bytes(plan, layer, dtype) for layer in layers),
    )


def _head_bytes(plan: Plan) -> int:
    """``lm_head`` as stored, in float32 if equalized, its codes, and those packed."""
    config = plan.config
    if config.num_labels or plan[head_group(config).name].spec is None:
        return 0
    floats = FLOAT_BYTES if plan.recipe.fit.equalize else 0
    return config.vocab_size * config.hidden_size * (STORED_BYTES + floats + 2) + _strips_bytes()


def allocate_bytes(config: GlmConfig) -> int:
    """What measuring sensitivities holds: a block and the next one as stored, the first one in float32, one linear
    layer of it rounded, and what each linear layer reads."""
    held = [held_groups(config, layer) for layer in unlike_layers(config)]
    groups = max(held, key=num_weights)
    largest = max(group.num_weights for group in groups)
    read = MEASURED_TOKENS * 2 * sum(group.columns for group in groups) * FLOAT_BYTES
    rounded = largest * (1 + FLOAT_BYTES)
    blocks = num_weights(groups) * (2 * STORED_BYTES + FLOAT_BYTES)
    return max(blocks + rounded + read + _strips_bytes(), table_bytes(config))


def _quantized_block_bytes(plan: Plan, layer: int, dtype: torch.dtype) -> int:
    groups, fit = held_groups(plan.config, layer), plan.recipe.fit
    at_work = [
        _hessian_bytes(group, fit.error_propagation > 0) if plan[group.unit].needs_hessian else group.num_weights
        for group in groups
    ]
    computing = max(group.num_weights for group in groups) * dtype.itemsize
    samples = TOKENS_AT_ONCE * max(group.columns for group in groups) * 4 * FLOAT_BYTES
    needs_samples = any(plan[group.unit].needs_hessian for group in groups)
    of_block = 2 * (FLOAT_BYTES if fit.equalize else STORED_BYTES) + 1
    written = sum(_written_bytes(group, plan[group.unit]) for group in plan.block_groups(layer))
    kept = min(KEPT_BYTES, num_weights(groups) * STORED_BYTES)
    held = num_weights(groups) * of_block + written + kept + _strips_bytes()
    return held + max(at_work) + (computing + samples if needs_samples else 0)


def _written_bytes(group: LinearGroup, plan: GroupPlan) -> int:
    """Codes, and what they are packed into; those of routed experts are packed as soon as they are there, and stay
    while the next block's come."""
    if plan.spec is None:
        return group.num_weights * STORED_BYTES if group.shared_unit else 0
    widest = max(spec.bits for spec in (plan.spec, *plan.alternatives))
    return group.num_weights * (3 * widest if group.shared_unit else 8 + widest) // 8


def _hessian_bytes(group: LinearGroup, corrects: bool) -> int:
    slices = 3 * min(ROWS_AT_ONCE, group.rows) * group.columns * FLOAT_BYTES
    error = 2 * group.num_weights * FLOAT_BYTES + group.columns**2 * FLOAT_BYTES if corrects else 0
    matrices = 4 if group.shared_unit else 2  # of experts, also what all tokens bring, and both blended
    return matrices * group.columns**2 * FLOAT_BYTES + slices + error


def _strips_bytes() -> int:
    """Work arrays of rounding, on all cores."""
    return torch.get_num_threads() * 4 * STRIP_ELEMENTS * FLOAT_BYTES
