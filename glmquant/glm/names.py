"""Canonical tensor names and shapes: those of transformers' ``GlmForCausalLM`` and ``Glm4ForCausalLM``."""

from glmquant.glm.config import GlmConfig

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"


def layer_prefix(layer: int) -> str:
    return f"model.layers.{layer}."


def layer_shapes(config: GlmConfig, layer: int) -> dict[str, tuple[int, ...]]:
    """Canonical names of a block's tensors and their shapes, in the order they are used."""
    at, hidden, inner = layer_prefix(layer), config.hidden_size, config.intermediate_size
    rows = {"q": config.query_rows, "k": config.key_value_rows, "v": config.key_value_rows}
    shapes: dict[str, tuple[int, ...]] = {f"{at}input_layernorm.weight": (hidden,)}
    for part, count in rows.items():
        shapes[f"{at}self_attn.{part}_proj.weight"] = (count, hidden)
        if config.attention_bias:
            shapes[f"{at}self_attn.{part}_proj.bias"] = (count,)
    shapes[f"{at}self_attn.o_proj.weight"] = (hidden, config.query_rows)
    if config.sandwich_norms:
        shapes[f"{at}post_self_attn_layernorm.weight"] = (hidden,)
    shapes[f"{at}post_attention_layernorm.weight"] = (hidden,)
    shapes[f"{at}mlp.gate_up_proj.weight"] = (2 * inner, hidden)
    shapes[f"{at}mlp.down_proj.weight"] = (hidden, inner)
    if config.sandwich_norms:
        shapes[f"{at}post_mlp_layernorm.weight"] = (hidden,)
    return shapes


def canonical_shapes(config: GlmConfig) -> dict[str, tuple[int, ...]]:
    """Every canonical tensor of the model and its shape; ``lm_head.weight`` also where it is tied.

    A classifier has no ``lm_head``; its own head is :func:`glmquant.glm.classifier.as_classifier`.
    """
    vocabulary = (config.vocab_size, config.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: vocabulary}
    for layer in range(config.num_hidden_layers):
        shapes |= layer_shapes(config, layer)
    shapes[FINAL_NORM] = (config.hidden_size,)
    return shapes if config.num_labels else shapes | {HEAD: vocabulary}
