"""Tiny models that see images, from transformers itself."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, Glm4vConfig, Glm46VConfig, GlmOcrConfig, PreTrainedModel

TEXT: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [1, 1, 2],
    },
}
VISION: dict[str, Any] = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 64}


def vision_model(kind: str) -> PreTrainedModel:
    text = {**TEXT, **({"head_dim": 16} if kind == "glm_ocr" else {})}
    configs = {"glm4v": Glm4vConfig, "glm46v": Glm46VConfig, "glm_ocr": GlmOcrConfig}
    config = configs[kind](text_config=text, vision_config=VISION, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name else 0.0)
    return model
