"""How much memory the passes over a model need.

Shape suffixes: N output rows, K input columns.
"""

import torch

from glmquant.core.pages import KEPT_BYTES
from glmquant.core.parallel import STRIP_ELEMENTS
from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import head_group
from glmquant.glm.parts import SparseKind, part_kinds
from glmquant.methods.gptq import ROWS_AT_ONCE
from glmquant.quantization.sensitivity import MEASURED_TOKENS
from glmquant.recipe.plan import Plan
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
    what is left of the block before while it is written, the pages of matrices that ended, and for the linear layer at
    work its Hessian, that one's factor, and slices of rows; before that, what an allocation is measured in."""
    layers = range(plan.config.num_hidden_layers)
    return max(
        table_bytes(plan.config),
        _head_bytes(plan),
        allocate_bytes(plan.config) if plan.recipe.allocate else 0,
        *(_quantized_block_bytes(plan, layer, dtype) for layer in layers),
    )


def _head_bytes(plan: Plan) -> int:
    """``lm_head`` as stored while it is equalized in float32; then beside its codes, and these as the file has them."""
    head = head_group(plan.config)
    if plan.config.num_labels or plan[head.name].spec is None:
        return 0
    stored = head.num_weights * STORED_BYTES
    floats = head.num_weights * FLOAT_BYTES if plan.recipe.fit.equalize else 0
    return max(stored + floats, (floats or stored) + head.num_weights + _packed_bytes(head, plan)) + _strips_bytes()


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
    config, fit = plan.config, plan.recipe.fit
    groups = held_groups(config, layer)
    weights, kept = num_weights(groups), min(KEPT_BYTES, num_weights(groups) * STORED_BYTES)
    computing = max(group.num_weights for group in groups) * dtype.itemsize
    samples = TOKENS_AT_ONCE * max(group.columns for group in groups) * 4 * FLOAT_BYTES
    needs_samples = any(plan[group.unit].needs_hessian for group in groups)
    of_block = 2 * (FLOAT_BYTES if fit.equalize else STORED_BYTES) + 1
    before = _written_bytes(plan, layer - 1) if layer else 0
    held = weights * of_block + before + kept + _strips_bytes()
    return held + _at_work_bytes(plan, layer) + (computing + samples if needs_samples else 0)


def _at_work_bytes(plan: Plan, layer: int) -> int:
    """For the linear layer that needs most; routed experts come before the others of their part, and stay."""
    kinds = part_kinds(plan.config, layer)
    sparse = tuple(f"{kind.scope}." for kind in kinds if isinstance(kind, SparseKind))
    experts = sum(_packed_bytes(group, plan) for group in plan.block_groups(layer) if group.shared_unit)

    def needed(group: LinearGroup) -> int:
        if plan[group.unit].needs_hessian:
            return _hessian_bytes(group, plan.recipe.fit.error_propagation > 0)
        return group.num_weights

    return max(
        needed(group) + (experts if group.within_layer.startswith(sparse) else 0)
        for group in held_groups(plan.config, layer)
    )


def _written_bytes(plan: Plan, layer: int) -> int:
    """What is left of a block while it is written: codes, those of routed experts packed, and a linear layer as the
    file has it."""
    groups = plan.block_groups(layer)
    codes = [_packed_bytes(group, plan) if group.shared_unit else group.num_weights for group in groups]
    return sum(codes) + max(_packed_bytes(group, plan) for group in groups)


def _packed_bytes(group: LinearGroup, plan: Plan) -> int:
    of_group = plan[group.unit]
    if of_group.spec is None:
        return group.num_weights * STORED_BYTES
    return group.num_weights * max(spec.bits for spec in (of_group.spec, *of_group.alternatives)) // 8


def _hessian_bytes(group: LinearGroup, corrects: bool) -> int:
    slices = 3 * min(ROWS_AT_ONCE, group.rows) * group.columns * FLOAT_BYTES
    error = 2 * group.num_weights * FLOAT_BYTES + group.columns**2 * FLOAT_BYTES if corrects else 0
    matrices = 4 if group.shared_unit else 2  # of experts, also what all tokens bring, and both blended
    return matrices * group.columns**2 * FLOAT_BYTES + slices + error


def _strips_bytes() -> int:
    """Work arrays of rounding, on all cores."""
    return torch.get_num_threads() * 4 * STRIP_ELEMENTS * FLOAT_BYTES
