"""How much memory a forward pass needs, weights and activations apart."""

from collections.abc import Sequence
from typing import Final

import torch

from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.parts import SparseKind, part_kinds
from glmquant.streaming.activations import TOKENS_AT_ONCE

STORED_BYTES: Final = 2
FLOAT_BYTES: Final = 4


def forward_bytes(config: GlmConfig, dtype: torch.dtype) -> int:
    """What a float block holds while samples pass through it: itself and the next one as stored, itself as computed
    with, and a batch's intermediate results."""
    weights = max(num_weights(held_groups(config, layer)) for layer in unlike_layers(config))
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
    return sum(group.num_weights for group in groups)


def unlike_layers(config: GlmConfig) -> tuple[int, ...]:
    """One layer of each kind: the first, and the first sparse one."""
    sparse = config.num_hidden_layers if config.experts is None else config.experts.first_layer
    return tuple(dict.fromkeys((0, sparse))) if sparse < config.num_hidden_layers else (0,)


def held_groups(config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
    """Of a block's linear groups those that are in memory at one time: of routed experts, one."""
    kinds = part_kinds(config, layer)
    chains = [group for kind in kinds for group in kind.groups(config, layer)]
    for kind in kinds:
        if isinstance(kind, SparseKind):
            chains += kind.expert_groups(config, layer, 0)
    return tuple(chains)


def _widest(config: GlmConfig) -> int:
    """Columns of the widest thing that stands before a linear layer; a part's first one is made anew unless routed
    experts read it, too."""
    widths = [
        kind.width(step, config, layer)
        for layer in unlike_layers(config)
        for kind in part_kinds(config, layer)
        for step in range(len(kind.groups(config, layer)))
        if step or isinstance(kind, SparseKind)
    ]
    return max(widths)
