"""One GLM block as plain functions, cut where a linear's input appears.

Own functions rather than transformers' modules: they import in no time, hold one block, and let calibration stop
between linears. Tests hold them to transformers' ``Glm`` and ``Glm4`` and to the publisher's own numbers.

Shape suffixes: B batch, T tokens, D hidden size, H query heads, C key/value heads, E head size, R rotary_dim / 2,
M rows of the fused q, k, v.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import linear, silu

from glmquant.core.qtensor import QuantMatrix, QuantTensor
from glmquant.glm.attention import attend
from glmquant.glm.config import GlmConfig


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer, float or quantized: ``weight`` is ``[N, K]``, ``bias_N`` may be absent.

    A quantized weight may have its columns in another order than the inputs (GPTQ's ``desc_act``): column ``k`` then
    meets input ``order_K[k]``.
    """

    weight: Tensor | QuantMatrix
    bias_N: Tensor | None = None
    order_K: Tensor | None = None

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weight as a float tensor ``[N, K]``, its columns in the order of the inputs."""
        weight = self.weight
        weight_NK = weight.to(dtype) if isinstance(weight, Tensor) else _whole(weight).dequantize(dtype)
        return weight_NK if self.order_K is None else weight_NK[:, self.order_K.argsort()]

    def floating(self, dtype: torch.dtype = torch.float32) -> "Linear":
        """The same layer with its weight as a float tensor, for repeated use."""
        return Linear(self.dense(dtype), self.bias_N)

    def to(self, device: torch.device) -> "Linear":
        """The same layer on a device: itself where it is there."""
        weight = self.weight
        return Linear(
            (weight if isinstance(weight, Tensor) else _whole(weight)).to(device),
            None if self.bias_N is None else self.bias_N.to(device),
            None if self.order_K is None else self.order_K.to(device),
        )

    def rows(self, part: slice) -> "Linear":
        """The layer that gives these outputs alone."""
        weight = self.weight
        some = weight[part] if isinstance(weight, Tensor) else weight.rows(part.start, part.stop)
        return Linear(some, None if self.bias_N is None else self.bias_N[part], self.order_K)

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.dense(x.dtype), None if self.bias_N is None else self.bias_N.to(x.dtype))


def _whole(weight: QuantMatrix) -> QuantTensor:
    return weight.rows(0, weight.shape[0])


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one block: fused linears, and norm gains ``[D]``. The last two norms are ``glm4``'s."""

    input_layernorm: Tensor
    qkv_proj: Linear
    o_proj: Linear
    post_attention_layernorm: Tensor
    gate_up_proj: Linear
    down_proj: Linear
    post_self_attn_layernorm: Tensor | None = None
    post_mlp_layernorm: Tensor | None = None

    def floating(self, dtype: torch.dtype = torch.float32) -> "Block":
        """The same block with its linears' weights as float tensors, for repeated use."""
        return replace(
            self,
            qkv_proj=self.qkv_proj.floating(dtype),
            o_proj=self.o_proj.floating(dtype),
            gate_up_proj=self.gate_up_proj.floating(dtype),
            down_proj=self.down_proj.floating(dtype),
        )

    def to(self, device: torch.device) -> "Block":
        """The same block on a device."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: part.to(device) for name, part in parts.items() if part is not None})


@dataclass(frozen=True, eq=False)
class Rotary:
    """Cosines and sines ``[B, T, R]``, float32 (RoFormer, arXiv:2104.09864, §3.2.2)."""

    cos_BTR: Tensor
    sin_BTR: Tensor


def rotary(config: GlmConfig, positions_BT: Tensor) -> Rotary:
    pairs_R = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device=positions_BT.device)
    exponents_R = pairs_R / config.rotary_dim
    angles_BTR = (positions_BT.float() / config.position_divisor).unsqueeze(-1) / config.rope_theta**exponents_R
    return Rotary(angles_BTR.cos(), angles_BTR.sin())


def positions_and_mask(attention_mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Positions ``[B, T]`` counted over real tokens (0 on pads), and the causal boolean mask ``[B, 1, T, T]``."""
    real_BT = attention_mask_BT.bool()
    positions_BT = (real_BT.long().cumsum(1) - 1).clamp(min=0)
    length = real_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool).tril()
    # A pad attends to itself, so that its row is defined; nothing reads it.
    mask_BTT = causal_TT & real_BT[:, None, :] | torch.eye(length, dtype=torch.bool)
    return positions_BT, mask_BTT.unsqueeze(1)


def rms_norm(x_BTD: Tensor, gain_D: Tensor, eps: float) -> Tensor:
    """RMSNorm (arXiv:1910.07467, eq. 4), computed in float32."""
    normed = functional.rms_norm(x_BTD.float(), gain_D.shape, gain_D.float(), eps)
    return normed.to(x_BTD.dtype)


def rotate(x_BTHE: Tensor, rope: Rotary) -> Tensor:
    """Rotates the first ``2 R`` dimensions of each head in interleaved pairs ``(2i, 2i + 1)``."""
    rotary_dim = 2 * rope.cos_BTR.shape[-1]
    turning, still = x_BTHE[..., :rotary_dim].float(), x_BTHE[..., rotary_dim:]
    even, odd = turning[..., 0::2], turning[..., 1::2]
    cos, sin = rope.cos_BTR.unsqueeze(2), rope.sin_BTR.unsqueeze(2)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([turned.to(x_BTHE.dtype), still], dim=-1)


def split_heads(qkv_BTM: Tensor, config: GlmConfig, rope: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``[B, T, H, E]``, keys and values ``[B, T, C, E]``; queries and keys are rotated."""
    q, k, v = qkv_BTM.split([config.query_rows, config.key_value_rows, config.key_value_rows], dim=-1)
    heads = (x.unflatten(-1, (-1, config.head_dim)) for x in (q, k, v))
    query, key, value = heads
    return rotate(query, rope), rotate(key, rope), value


def attention_input(x_BTD: Tensor, block: Block, config: GlmConfig) -> Tensor:
    return rms_norm(x_BTD, block.input_layernorm, config.rms_norm_eps)


def add_attention(x_BTD: Tensor, output_BTD: Tensor, block: Block, config: GlmConfig) -> Tensor:
    gain = block.post_self_attn_layernorm
    return x_BTD + (output_BTD if gain is None else rms_norm(output_BTD, gain, config.rms_norm_eps))


def mlp_input(x_BTD: Tensor, block: Block, config: GlmConfig) -> Tensor:
    return rms_norm(x_BTD, block.post_attention_layernorm, config.rms_norm_eps)


def gate(gate_up: Tensor) -> Tensor:
    """SwiGLU (arXiv:2002.05202, eq. 6): the first half gates the second."""
    gated, up = gate_up.chunk(2, dim=-1)
    return silu(gated) * up


def add_mlp(x_BTD: Tensor, output_BTD: Tensor, block: Block, config: GlmConfig) -> Tensor:
    gain = block.post_mlp_layernorm
    return x_BTD + (output_BTD if gain is None else rms_norm(output_BTD, gain, config.rms_norm_eps))


def block_forward(x_BTD: Tensor, block: Block, config: GlmConfig, rope: Rotary, mask: Tensor | None = None) -> Tensor:
    """The whole block; ``mask`` as :func:`positions_and_mask` gives it, or None where no token is padding."""
    qkv = block.qkv_proj(attention_input(x_BTD, block, config))
    context = attend(*split_heads(qkv, config, rope), mask)
    x_BTD = add_attention(x_BTD, block.o_proj(context), block, config)
    inner = gate(block.gate_up_proj(mlp_input(x_BTD, block, config)))
    return add_mlp(x_BTD, block.down_proj(inner), block, config)
