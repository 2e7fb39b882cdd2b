"""The canonical ``config.json``, which transformers 4.57 and 5.x both load."""

from typing import Any

from glmquant.glm.config import GlmConfig

MODEL_NAMES = {"glm": "Glm", "glm4": "Glm4"}


def to_hf_config(config: GlmConfig) -> dict[str, Any]:
    """``config.json`` of the canonical layout, its keys in a fixed order.

    Rotation is said twice: transformers 4.57 reads ``rope_theta``, ``partial_rotary_factor`` and ``rope_scaling``, 5.x
    ``rope_parameters``. Dividing positions by r is linear scaling by r.
    """
    scaling: dict[str, Any] = {"rope_type": "default"}
    if config.position_divisor != 1:
        scaling = {"rope_type": "linear", "factor": config.position_divisor}
    rope = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.rotary_dim / config.head_dim}
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
