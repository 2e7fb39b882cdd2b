"""Canonical tensor names and shapes: those of transformers' ``GlmForCausalLM`` and ``Glm4ForCausalLM``."""

from glmquant.glm.config import GlmConfig
from glmquant.glm.groups import part_groups
from glmquant.glm.parts import SparseKind, part_kinds

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def layer_shapes(config: GlmConfig, layer: int) -> dict[str, tuple[int, ...]]:
    """Canonical names of a block's tensors and their shapes, in the order they are used."""
    at = layer_prefix(layer)
    shapes: dict[str, tuple[int, ...]] = {}
    for kind in part_kinds(config, layer):
        gains = {name: (size,) for name, size in kind.gain_sizes(config).items()}
        after = gains.pop(kind.output_norm, None)
        shapes |= {f"{at}{name}.weight": shape for name, shape in gains.items()}
        if isinstance(kind, SparseKind):
            shapes |= {f"{at}{name}": shape for name, shape in kind.router_shapes(config).items()}
        for group in part_groups(config, kind, layer):
            for member, rows in zip(group.members, group.member_rows, strict=True):
                shapes[f"{member}.weight"] = (rows, group.columns)
                if group.bias:
                    shapes[f"{member}.bias"] = (rows,)
        if after is not None:
            shapes[f"{at}{kind.output_norm}.weight"] = after
    return shapes


def canonical_shapes(config: GlmConfig) -> dict[str, tuple[int, ...]]:
    """Every canonical tensor of the model and its shape; ``lm_head.weight`` also where it is tied.

    A classifier has no ``lm_head``; its own head is :data:`glmquant.glm.layouts.labels.HEAD_WEIGHT`.
    """
    vocabulary = (config.vocab_size, config.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: vocabulary}
    for layer in range(config.num_hidden_layers):
        shapes |= layer_shapes(config, layer)
    shapes[FINAL_NORM] = (config.hidden_size,)
    return shapes if config.num_labels else shapes | {HEAD: vocabulary}
