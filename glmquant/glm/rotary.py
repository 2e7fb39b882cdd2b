"""Rotary position embedding (RoFormer, arXiv:2104.09864, §3.2.2), and RMSNorm.

Shape suffixes: B batch, T tokens, D hidden, H heads, E head size, R rotary_dim / 2.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from glmquant.glm.config import GlmConfig

ROUNDED: Final = 1.01
"""No float32 or bfloat16 is farther from what it rounds."""


@dataclass(frozen=True, eq=False)
class Rotary:
    """Cosines and sines ``[B, T, R]``, float32."""

    cos_BTR: Tensor
    sin_BTR: Tensor


def rotary(config: GlmConfig, positions_BT: Tensor) -> Rotary:
    """The angles of each position, on the positions' device."""
    pairs_R = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device=positions_BT.device)
    exponents_R = pairs_R / config.rotary_dim
    angles_BTR = (positions_BT.float() / config.position_divisor).unsqueeze(-1) / config.rope_theta**exponents_R
    return Rotary(angles_BTR.cos(), angles_BTR.sin())


def rotate(x_BTHE: Tensor, rope: Rotary, *, in_pairs: bool = True) -> Tensor:
    """Rotates the first ``2 R`` dimensions of each head.

    Args:
        in_pairs: ``(2i, 2i + 1)`` together; else ``(i, i + R)``, as GPT-NeoX does.
    """
    rotary_dim = 2 * rope.cos_BTR.shape[-1]
    turning, still = x_BTHE[..., :rotary_dim].float(), x_BTHE[..., rotary_dim:]
    one, other = (turning[..., 0::2], turning[..., 1::2]) if in_pairs else turning.chunk(2, dim=-1)
    cos, sin = rope.cos_BTR.unsqueeze(2), rope.sin_BTR.unsqueeze(2)
    both = [one * cos - other * sin, other * cos + one * sin]
    turned = torch.stack(both, dim=-1).flatten(-2) if in_pairs else torch.cat(both, dim=-1)
    return torch.cat([turned.to(x_BTHE.dtype), still], dim=-1)


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
    """RMSNorm (arXiv:1910.07467, eq. 4), computed in float32; the dtype of ``x_BTD``."""
    normed = functional.rms_norm(x_BTD.float(), gain_D.shape, gain_D.float(), eps)
    return normed.to(x_BTD.dtype)


def largest_normed(gain_D: Tensor) -> Tensor:
    """What no element of an RMSNorm's result exceeds, float32 ``[D]``, also if it is then rounded to bfloat16: all of a
    vector's size in one element is √D times its root mean square."""
    return gain_D.float().abs() * (ROUNDED * math.sqrt(len(gain_D)))
