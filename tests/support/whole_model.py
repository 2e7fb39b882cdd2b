"""A whole model on top of the blocks, for parity tests: all weights in memory, no cache."""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from glmquant.glm.block import Block
from glmquant.glm.config import GlmConfig
from glmquant.glm.linear import Linear
from glmquant.glm.names import EMBEDDING, FINAL_NORM, HEAD, layer_prefix
from glmquant.glm.parts import Context
from glmquant.glm.parts.attention import split_heads
from glmquant.glm.rotary import Rotary, positions_and_mask, rms_norm, rotary
from tests.support.blocks import block_forward, make_block


def block(tensors: dict[str, Tensor], config: GlmConfig, layer: int) -> Block:
    at = layer_prefix(layer)
    fused = torch.cat([tensors[f"{at}self_attn.{part}_proj.weight"] for part in "qkv"])
    bias = None
    if config.attention_bias:
        bias = torch.cat([tensors[f"{at}self_attn.{part}_proj.bias"] for part in "qkv"])
    return make_block(
        config,
        input_layernorm=tensors[f"{at}input_layernorm.weight"],
        qkv_proj=Linear(fused, bias),
        o_proj=Linear(tensors[f"{at}self_attn.o_proj.weight"]),
        post_attention_layernorm=tensors[f"{at}post_attention_layernorm.weight"],
        gate_up_proj=Linear(tensors[f"{at}mlp.gate_up_proj.weight"]),
        down_proj=Linear(tensors[f"{at}mlp.down_proj.weight"]),
        post_self_attn_layernorm=tensors.get(f"{at}post_self_attn_layernorm.weight"),
        post_mlp_layernorm=tensors.get(f"{at}post_mlp_layernorm.weight"),
    )


def inputs(config: GlmConfig, ids_BT: Tensor, mask_BT: Tensor | None) -> tuple[Rotary, Tensor | None]:
    real = torch.ones_like(ids_BT) if mask_BT is None else mask_BT
    positions, mask = positions_and_mask(real)
    return rotary(config, positions), None if mask_BT is None else mask


def logits(tensors: dict[str, Tensor], config: GlmConfig, ids_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Logits ``[B, T, vocabulary]``."""
    rope, mask = inputs(config, ids_BT, mask_BT)
    x = embedding(ids_BT, tensors[EMBEDDING])
    for layer in range(config.num_hidden_layers):
        x = block_forward(x, block(tensors, config, layer), config, rope, mask)
    return rms_norm(x, tensors[FINAL_NORM], config.rms_norm_eps) @ tensors[HEAD].T


def first_cache(tensors: dict[str, Tensor], config: GlmConfig, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Keys, rotated, and values of the first block, ``[B, T, C, E]``."""
    rope, _ = inputs(config, ids_BT, None)
    first = block(tensors, config, 0)
    x = embedding(ids_BT, tensors[EMBEDDING])
    qkv = first.linears()["self_attn.qkv_proj"](first.attention.read(x, config))
    _, key, value = split_heads(qkv, first.attention, Context(config, rope))
    return key, value
