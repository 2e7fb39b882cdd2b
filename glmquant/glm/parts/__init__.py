"""The parts that blocks are made of, one kind a file. A kind of one's own joins by a line in these tables."""

from glmquant.glm.config import GlmConfig
from glmquant.glm.parts.attention import GroupedQueryAttention
from glmquant.glm.parts.base import Context, Part, PartKind, SparseKind
from glmquant.glm.parts.latent_attention import LatentAttention
from glmquant.glm.parts.mlp import SwigluMlp
from glmquant.glm.parts.sparse_mlp import SparseMlp

ATTENTION_PARTS: dict[str, PartKind] = {
    "glm": GroupedQueryAttention(),
    "glm4": GroupedQueryAttention(),
    "glm4_moe": GroupedQueryAttention(),
    "glm4_moe_lite": LatentAttention(),
}
"""By ``GlmConfig.architecture``."""

MLP_PARTS: dict[str, PartKind] = {"silu": SwigluMlp()}
"""By ``GlmConfig.hidden_act``."""

SPARSE_MLP_PARTS: dict[str, SparseKind] = {"silu": SparseMlp()}
"""By ``GlmConfig.hidden_act``, of layers with routed experts."""


def part_kinds(config: GlmConfig, layer: int) -> tuple[PartKind, PartKind]:
    """Attention and MLP of a block."""
    mlp = SPARSE_MLP_PARTS[config.hidden_act] if config.is_sparse(layer) else MLP_PARTS[config.hidden_act]
    return ATTENTION_PARTS[config.architecture], mlp


__all__ = [
    "ATTENTION_PARTS",
    "MLP_PARTS",
    "SPARSE_MLP_PARTS",
    "Context",
    "Part",
    "PartKind",
    "SparseKind",
    "part_kinds",
]
