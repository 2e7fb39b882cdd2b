"""The canonical ``config.json``, which transformers 4.57 and 5.x both load."""

from typing import Any

from glmquant.glm.config import ExpertsConfig, GlmConfig, LatentConfig

MODEL_NAMES = {"glm": "Glm", "glm4": "Glm4", "glm4_moe": "Glm4Moe", "glm4_moe_lite": "Glm4MoeLite"}


def to_hf_config(config: GlmConfig) -> dict[str, Any]:
    """``config.json`` of the canonical layout, its keys in a fixed order.

    Rotation is said twice: transformers 4.57 reads ``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling``, 5.x
    ``rope_parameters``. Dividing positions by r is linear scaling by r.
    """
    scaling: dict[str, Any] = {"rope_type": "default"}
    if config.position_divisor != 1:
        scaling = {"rope_type": "linear", "factor": config.position_divisor}
    rotating = config.rotary_dim if config.latent is not None else config.head_dim
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.rotary_dim / rotating}
    ends = config.eos_token_ids
    task = "ForSequenceClassification" if config.num_labels else "ForCausalLM"
    values: dict[str, Any] = {
        "architectures": [MODEL_NAMES[config.architecture] + task],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": config.hidden_act,
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        **rope,
        "rope_parameters": {**scaling, **rope},
    }
    if config.position_divisor != 1:
        values["rope_scaling"] = scaling
    if config.experts is not None:
        values |= _experts(config.experts, config)
    if config.latent is not None:
        values = {name: value for name, value in values.items() if name != "head_dim"} | _latent(config.latent, config)
    if config.num_labels:
        values["id2label"] = {str(number): label for number, label in enumerate(config.labels)}
        values["label2id"] = {label: number for number, label in enumerate(config.labels)}
        values["problem_type"] = "single_label_classification"
    return values | {
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends),
        "pad_token_id": config.pad_token_id,
        "use_cache": True,
        "dtype": config.float_dtype,
        "torch_dtype": config.float_dtype,
    }


def _experts(experts: ExpertsConfig, config: GlmConfig) -> dict[str, Any]:
    """Which layers are dense is said twice: transformers 5 reads ``mlp_layer_types`` of ``glm4_moe_lite``."""
    dense, layers = experts.first_layer, config.num_hidden_layers
    values: dict[str, Any] = {
        "n_routed_experts": experts.count,
        "num_experts_per_tok": experts.per_token,
        "moe_intermediate_size": experts.intermediate_size,
        "n_shared_experts": experts.shared,
        "routed_scaling_factor": experts.scaling,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "first_k_dense_replace": dense,
        "num_nextn_predict_layers": 0,
    }
    if config.latent is not None:
        return values | {"mlp_layer_types": ["dense"] * dense + ["sparse"] * (layers - dense)}
    return values | {"use_qk_norm": config.qk_norm}


def _latent(latent: LatentConfig, config: GlmConfig) -> dict[str, Any]:
    return {
        "q_lora_rank": latent.query_rank,
        "kv_lora_rank": latent.key_value_rank,
        "qk_nope_head_dim": latent.still_dim,
        "qk_rope_head_dim": config.rotary_dim,
        "v_head_dim": config.head_dim,
        "rope_interleave": True,
    }
