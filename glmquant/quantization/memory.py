"""How much memory the passes over a model need, and what that leaves for activations.

Shape suffixes: N output rows, K input columns.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from glmquant.core.device import CPU
from glmquant.core.machine import peak_memory, physical_memory
from glmquant.core.parallel import STRIP_ELEMENTS
from glmquant.errors import OutputError
from glmquant.glm.config import GlmConfig, LinearGroup, block_groups, linear_groups
from glmquant.methods.gptq import ROWS_AT_ONCE
from glmquant.quantization.sensitivity import MEASURED_TOKENS
from glmquant.recipe.plan import GroupPlan, resolve_rules
from glmquant.recipe.schema import FitOptions, Recipe
from glmquant.streaming.activations import TOKENS_AT_ONCE, Room

STORED_BYTES: Final = 2
FLOAT_BYTES: Final = 4
SHARE_OF_MACHINE: Final = 0.75
"""Of the physical memory, where no limit is stated."""


def room_within(
    limit: int | None,
    needed: int,
    directory: Path | None = None,
    *,
    held: int | None = None,
    device: torch.device = CPU,
) -> Room:
    """Room for the activations of a pass that itself needs ``needed`` bytes.

    Args:
        limit: bytes the process may hold; None for three quarters of the machine's.
        directory: where activations go that do not fit.
        held: bytes without the pass; None for what this process has held so far.
        device: what computes; its own memory, where it has any, is not counted.

    Raises:
        OutputError: the pass cannot stay within the limit, wherever its activations lie.
    """
    held = held_bytes() if held is None else held
    if limit is not None and held + needed > limit:
        raise OutputError(
            f"the memory limit is {limit / 1e9:.2f} GB; one block alone needs {(held + needed) / 1e9:.2f} GB",
            where="--memory-limit",
            fix=f"give at least {(held + needed) / 1e9 + 0.05:.1f}GB",
        )
    whole = limit if limit is not None else SHARE_OF_MACHINE * physical_bytes()
    return Room(max(0, whole - held - needed), directory, device)


def held_bytes() -> int:
    """The most this process has held so far, mapped files included."""
    return peak_memory()


def physical_bytes() -> int:
    return physical_memory()


def forward_bytes(config: GlmConfig, dtype: torch.dtype) -> int:
    """What a float block holds while samples pass through it: itself and the next one as stored, itself as computed
    with, and a batch's intermediate results."""
    weights = _weights(block_groups(config, 0))
    batch = TOKENS_AT_ONCE * 4 * (config.hidden_size + config.intermediate_size) * FLOAT_BYTES
    return max(weights * (2 * STORED_BYTES + dtype.itemsize) + batch, _table_bytes(config))


def quantize_bytes(config: GlmConfig, recipe: Recipe, dtype: torch.dtype) -> int:
    """What quantizing holds, activations apart: a block and the next one as stored (in float32 if evened), codes, those
    of the block before as they are written, and for the linear at work its Hessian, that one's factor, and slices of
    rows; before that, what an allocation is measured in."""
    plans, layers = resolve_rules(recipe.rules, linear_groups(config)), range(config.num_hidden_layers)
    return max(
        _table_bytes(config),
        allocate_bytes(config) if recipe.allocate else 0,
        *(_quantized_block_bytes(block_groups(config, k), plans, dtype, recipe.fit) for k in layers),
    )


def allocate_bytes(config: GlmConfig) -> int:
    """What measuring sensitivities holds: a block as stored and in float32, one linear of it rounded, and what each
    linear reads."""
    groups = block_groups(config, 0)
    largest = max(group.rows * group.columns for group in groups)
    read = MEASURED_TOKENS * 2 * sum(group.columns for group in groups) * FLOAT_BYTES
    rounded = largest * (1 + FLOAT_BYTES)
    return max(_weights(groups) * (STORED_BYTES + FLOAT_BYTES) + rounded + read + _strips_bytes(), _table_bytes(config))


def activation_bytes(config: GlmConfig, num_samples: int, seq_len: int, dtype: torch.dtype) -> int:
    """The hidden states of all samples, and the widest of what is kept between two linears."""
    kept = max(config.query_rows, config.intermediate_size) * dtype.itemsize
    return num_samples * seq_len * (config.hidden_size * FLOAT_BYTES + kept)


def _quantized_block_bytes(
    groups: tuple[LinearGroup, ...], plans: Mapping[str, GroupPlan], dtype: torch.dtype, fit: FitOptions
) -> int:
    weights = _weights(groups)
    at_work = [
        _hessian_bytes(group, fit.compensate > 0) if plans[group.name].needs_hessian else group.rows * group.columns
        for group in groups
    ]
    computing = max(group.rows * group.columns for group in groups) * dtype.itemsize
    samples = TOKENS_AT_ONCE * max(group.columns for group in groups) * 4 * FLOAT_BYTES
    needs_samples = any(plans[group.name].needs_hessian for group in groups)
    of_block = 2 * (FLOAT_BYTES if fit.equalize else STORED_BYTES) + 1
    written = sum(_written_bytes(group, plans[group.name]) for group in groups)
    return weights * of_block + written + _strips_bytes() + max(at_work) + (computing + samples if needs_samples else 0)


def _written_bytes(group: LinearGroup, plan: GroupPlan) -> int:
    """Codes, and what they are packed into."""
    bits = 0 if plan.spec is None else 8 + max(spec.bits for spec in (plan.spec, *plan.alternatives))
    return group.rows * group.columns * bits // 8


def _hessian_bytes(group: LinearGroup, compensates: bool) -> int:
    slices = 3 * min(ROWS_AT_ONCE, group.rows) * group.columns * FLOAT_BYTES
    drift = 2 * group.rows * group.columns * FLOAT_BYTES + group.columns**2 * FLOAT_BYTES if compensates else 0
    return 2 * group.columns**2 * FLOAT_BYTES + slices + drift


def _strips_bytes() -> int:
    """Work arrays of rounding, on all cores."""
    return torch.get_num_threads() * 4 * STRIP_ELEMENTS * FLOAT_BYTES


def _table_bytes(config: GlmConfig) -> int:
    """Embedding or head as stored, and a copy in codes."""
    return config.vocab_size * config.hidden_size * (STORED_BYTES + 1)


def _weights(groups: tuple[LinearGroup, ...]) -> int:
    return sum(group.rows * group.columns for group in groups)
