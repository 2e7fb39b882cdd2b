"""Fields of ``config.json`` that only models with routed experts have: ``glm4_moe`` and ``glm4_moe_lite``.

Which layers are dense is said by ``first_k_dense_replace`` or, in ``glm4_moe_lite`` as transformers 5 saves it, by
``mlp_layer_types``. What GLM models do not have (groups of experts, weights that are not brought to a sum of 1) is
refused rather than computed as if it were not there.
"""

from glmquant.glm.config import ExpertsConfig, LatentConfig
from glmquant.glm.layouts.fields import MOST_LAYERS, Fields

MOST_EXPERTS = 4096
MOST_IN_ALL = 2**16
"""Experts of all layers together; GLM-5's layers have 20 thousand, and a config that says more is damaged."""


def read_experts(fields: Fields) -> ExpertsConfig:
    """The routed experts of the sparse layers.

    Raises:
        CheckpointError: a field that is missing, out of range, or of a router that is not implemented.
    """
    fields.refuse_unless("n_group", 1, "a router that chooses groups of experts first is not implemented")
    fields.refuse_unless("topk_group", 1, "a router that chooses groups of experts first is not implemented")
    fields.refuse_unless("norm_topk_prob", True, "weights of experts that do not sum to 1 are not implemented")
    fields.refuse_unless("topk_method", "noaux_tc", "another way to choose experts is not implemented")
    fields.refuse_unless("scoring_func", "sigmoid", "another score than the sigmoid is not implemented")
    count = fields.integer("n_routed_experts", high=MOST_EXPERTS)
    layers = fields.integer("num_hidden_layers", high=MOST_LAYERS)
    if count * layers > MOST_IN_ALL:
        raise fields.error("n_routed_experts", f"at most {MOST_IN_ALL // layers} in each of {layers} layers")
    return ExpertsConfig(
        count=count,
        per_token=fields.integer("num_experts_per_tok", high=count),
        intermediate_size=fields.integer("moe_intermediate_size"),
        shared=fields.integer("n_shared_experts", 1, high=MOST_EXPERTS),
        scaling=fields.number("routed_scaling_factor", 1.0),
        first_layer=_first_sparse_layer(fields),
    )


def _first_sparse_layer(fields: Fields) -> int:
    layers = fields.integer("num_hidden_layers", high=MOST_LAYERS)
    kinds = fields.raw("mlp_layer_types")
    if kinds is None:
        return fields.integer("first_k_dense_replace", 1, low=0, high=layers)
    dense = kinds.count("dense") if isinstance(kinds, list) else 0
    if kinds != ["dense"] * dense + ["sparse"] * (layers - dense):
        raise fields.error("mlp_layer_types", f"a list of {layers}: first 'dense', if any, then 'sparse'")
    if "first_k_dense_replace" in fields and fields.integer("first_k_dense_replace", low=0, high=layers) != dense:
        raise fields.error("first_k_dense_replace", f"{dense}, the number of dense layers in mlp_layer_types")
    return dense


def read_latent(fields: Fields) -> LatentConfig:
    """Latent attention, but for what all attention has.

    Raises:
        CheckpointError: a field that is missing, out of range, or of a variant that is not implemented.
    """
    fields.refuse_unless("rope_interleave", True, "rotation in halves is not implemented for latent attention")
    return LatentConfig(
        query_rank=fields.integer("q_lora_rank"),
        key_value_rank=fields.integer("kv_lora_rank"),
        still_dim=fields.integer("qk_nope_head_dim"),
    )


def latent_rotary_dim(fields: Fields, share: float) -> int:
    """The rotating dimensions of a head.

    Args:
        share: ``partial_rotary_factor``, of the rotating part itself.
    """
    rotary_dim = fields.integer("qk_rope_head_dim")
    if share != 1.0:
        raise fields.error("partial_rotary_factor", "1.0: all of qk_rope_head_dim rotates")
    if rotary_dim % 2:
        raise fields.error("qk_rope_head_dim", "an even number: rotation acts on pairs")
    return rotary_dim


def latent_head_dim(fields: Fields, latent: LatentConfig, rotary_dim: int) -> int:
    """The size of a head; ``head_dim`` of the file is another name of ``qk_rope_head_dim`` and is not read."""
    head_dim = latent.still_dim + rotary_dim
    if fields.integer("v_head_dim") != head_dim:
        raise fields.error(
            "v_head_dim",
            f"{head_dim}, as wide as a query's head: no operator of ONNX Runtime attends with other heads of values",
        )
    if fields.integer("num_key_value_heads") != fields.integer("num_attention_heads"):
        raise fields.error("num_key_value_heads", "as many as num_attention_heads: the latent is expanded for each")
    return head_dim
