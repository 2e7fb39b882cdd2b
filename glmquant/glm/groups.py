"""The linear groups of a model, as the parts of its blocks declare them."""

from glmquant.glm.config import GlmConfig, LinearGroup
from glmquant.glm.parts import part_kinds


def block_groups(config: GlmConfig, layer: int) -> tuple[LinearGroup, ...]:
    """The linear groups of a block, in the order data flows through them."""
    return tuple(group for kind in part_kinds(config, layer) for group in kind.groups(config, layer))


def head_group(config: GlmConfig) -> LinearGroup:
    """The group of ``lm_head``."""
    return LinearGroup("lm_head", ("lm_head",), (config.vocab_size,), config.hidden_size)


def linear_groups(config: GlmConfig) -> tuple[LinearGroup, ...]:
    """Every linear group of the model, blocks first, ``lm_head`` last; a classifier has no ``lm_head``."""
    blocks = [group for layer in range(config.num_hidden_layers) for group in block_groups(config, layer)]
    return tuple(blocks) if config.num_labels else (*blocks, head_group(config))
