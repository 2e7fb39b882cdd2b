"""How much memory a forward pass needs, weights and activations apart."""

from collections.abc import Sequence
from typing import Final

import torch

from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.groups import block_groups
from glmquant.glm.parts import part_kinds
from glmquant.streaming.activations import TOKENS_AT_ONCE

STORED_BYTES: Final = 2
FLOAT_BYTES: Final = 4


def forward_bytes(config: GlmConfig, dtype: torch.dtype) -> int:
    """What a float block holds while samples pass through it: itself and the next one as stored, itself as computed
    with, and a batch's intermediate results."""
    weights = num_weights(block_groups(config, 0))
    batch = TOKENS_AT_ONCE * 4 * (config.hidden_size + _widest(config)) * FLOAT_BYTES
    return max(weights * (2 * STORED_BYTES + dtype.itemsize) + batch, table_bytes(config))


def activation_bytes(config: GlmConfig, num_samples: int, seq_len: int, dtype: torch.dtype) -> int:
    """The hidden states of all samples, and the widest of what is kept between two linear layers."""
    kept = _widest(config) * dtype.itemsize
    return num_samples * seq_len * (config.hidden_size * FLOAT_BYTES + kept)


def table_bytes(config: GlmConfig) -> int:
    """Embedding or head as stored, and a copy in codes."""
    return config.vocab_size * config.hidden_size * (STORED_BYTES + 1)


def num_weights(groups: Sequence[LinearGroup]) -> int:
    return sum(group.rows * group.columns for group in groups)


def _widest(config: GlmConfig) -> int:
    """Columns of the widest linear layer in a part that is not its first."""
    return max(group.columns for kind in part_kinds(config, 0) for group in kind.groups(config, 0)[1:])
