"""Tiny checkpoints with routed experts, from transformers itself, made hard on purpose.

Gains differ from 1, the router's correction bias is large with a small spread, latents are so small that the epsilon of
their norms shows, and tensors of a draft layer lie behind the last one.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Glm4MoeConfig, Glm4MoeLiteConfig, PreTrainedModel

from glmquant.store.checkpoint import Checkpoint

LATENTS = ("q_a_proj", "kv_a_proj_with_mqa")
COMMON: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.8,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LITE: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
MOE: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 32, "first_k_dense_replace": 1}


def moe_model(model_type: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """transformers' own model, float32, in eval mode."""
    is_lite = model_type == "glm4_moe_lite"
    values = {**COMMON, **(LITE if is_lite else MOE), **changes}
    config = Glm4MoeLiteConfig(**values) if is_lite else Glm4MoeConfig(**values)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("inv_freq"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(7 + 0.1 * noise)
            elif name.endswith("norm.weight"):
                tensor.copy_(1 + 0.2 * noise)
            elif tensor.ndim == 1:
                tensor.copy_(0.2 * noise)
            else:
                small = 1e-3 if any(latent in name for latent in LATENTS) else 1.0
                tensor.copy_(noise * small / tensor.shape[-1] ** 0.5)
    return model


def write_moe(directory: Path, model_type: str, *, draft: bool = True, **changes: Any) -> PreTrainedModel:
    """Saves the model as transformers does, with a draft layer's tensors behind; gives the model."""
    model = moe_model(model_type, **changes)
    model.save_pretrained(directory)
    if draft:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        at = f"model.layers.{model.config.num_hidden_layers}"
        hidden = model.config.hidden_size
        tensors |= {f"{at}.eh_proj.weight": torch.ones(hidden, 2 * hidden), f"{at}.enorm.weight": torch.ones(hidden)}
        save_file(tensors, path, {"format": "pt"})
    return model


def with_weights_of(model: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    """The same model with a quantized checkpoint's linear layers, dequantized."""
    state = model.state_dict() | {"lm_head.weight": checkpoint.lm_head().dense()}
    for layer in range(checkpoint.config.num_hidden_layers):
        block, at = checkpoint.block(layer), f"model.layers.{layer}"
        for part in block.parts:
            for group in part.kind.groups(checkpoint.config, layer):
                linear = part.linears[group.within(part.kind.scope)]
                rows = linear.dense().split(list(group.member_rows))
                state |= {f"{member}.weight": weight for member, weight in zip(group.members, rows, strict=True)}
            experts = part.experts
            if experts is not None:
                for name in ("gate_up_proj", "down_proj"):
                    loaded = [experts.load(expert, name).dense() for expert in range(experts.count)]
                    state[f"{at}.mlp.experts.{name}"] = torch.stack(loaded)
    model.load_state_dict(state)
    return model
