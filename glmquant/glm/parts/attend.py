"""Causal grouped-query attention over heads.

Shape suffixes: B batch, T tokens, H query heads, C key/value heads, G query heads that share a key/value head, E head
size, P query positions of a strip, S key positions up to the strip's last.
"""

from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from glmquant.core.matmul import float32_products

STRIP_POSITIONS: Final = 64


def attend(query_BTHE: Tensor, key_BTCE: Tensor, value_BTCE: Tensor, mask: Tensor | None) -> Tensor:
    """Causal attention; without a mask every token is real. Gives ``[B, T, H * E]``.

    On the processor bfloat16 heads go strip by strip through products of oneDNN, three times as fast as torch's own
    kernel, which multiplies them in MKL. Scores are float32 there, too.
    """
    q, k, v = (x.transpose(1, 2) for x in (query_BTHE, key_BTCE, value_BTCE))
    if mask is None and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        context = _in_strips(q, k, v)
    else:
        context = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return context.transpose(1, 2).flatten(-2)


def _in_strips(query_BHTE: Tensor, key_BCTE: Tensor, value_BCTE: Tensor) -> Tensor:
    """``[B, H, T, E]``. A strip of positions meets no key beyond its last one, so half of the work is never done."""
    length, scale = query_BHTE.shape[2], query_BHTE.shape[3] ** -0.5
    query_BCGTE = query_BHTE.unflatten(1, (key_BCTE.shape[1], -1))
    context_BCGTE = torch.empty_like(query_BCGTE, memory_format=torch.contiguous_format)
    key_BCES = key_BCTE.float().transpose(-1, -2)
    later_PP = torch.full((STRIP_POSITIONS, STRIP_POSITIONS), -torch.inf).triu(1)
    for start in range(0, length, STRIP_POSITIONS):
        strip = slice(start, min(start + STRIP_POSITIONS, length))
        size = strip.stop - start
        query_BCPE = query_BCGTE[..., strip, :].flatten(2, 3)
        with float32_products(exact=False):  # operands are bfloat16 values as they are
            scores_BCPS = query_BCPE.float() @ key_BCES[..., : strip.stop]
        scores_BCGPS = scores_BCPS.mul_(scale).unflatten(2, (-1, size))
        scores_BCGPS[..., strip] += later_PP[:size, :size]
        weights_BCPS = scores_BCGPS.softmax(-1).to(value_BCTE.dtype).flatten(2, 3)
        context_BCGTE[..., strip, :] = (weights_BCPS @ value_BCTE[:, :, : strip.stop]).unflatten(2, (-1, size))
    return context_BCGTE.flatten(1, 2)
