"""The parts that blocks are made of, one kind a file. A kind of one's own joins by a line in these tables."""

from glmquant.glm.config import GlmConfig
from glmquant.glm.parts.attention import GroupedQueryAttention
from glmquant.glm.parts.base import Context, Part, PartKind
from glmquant.glm.parts.mlp import SwigluMlp

ATTENTION_PARTS: dict[str, PartKind] = {"glm": GroupedQueryAttention(), "glm4": GroupedQueryAttention()}
"""By ``GlmConfig.architecture``."""

MLP_PARTS: dict[str, PartKind] = {"silu": SwigluMlp()}
"""By ``GlmConfig.hidden_act``."""


def part_kinds(config: GlmConfig, layer: int) -> tuple[PartKind, PartKind]:
    """Attention and MLP of a block."""
    return ATTENTION_PARTS[config.architecture], MLP_PARTS[config.hidden_act]


__all__ = ["ATTENTION_PARTS", "MLP_PARTS", "Context", "Part", "PartKind", "part_kinds"]
