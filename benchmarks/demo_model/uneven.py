"""Uneven channels, as large models have them and a small one, soon trained, has not.

Log-normal factors are folded in where they cancel exactly, so the function computed is unchanged (float16 rounding
aside) and what quantizing costs becomes visible: norm gain and input columns, value rows and output columns, up rows
and down columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.demo_model.network import Block, ChatGLM2


@torch.no_grad()
def make_channels_uneven(model: ChatGLM2, spread: float, seed: int) -> None:
    """`spread` is the standard deviation of the factors' logarithms."""
    generator = torch.Generator().manual_seed(seed)
    for block in model.transformer.encoder.layers:
        _scale(block, model, lambda n: torch.exp(spread * torch.randn(n, generator=generator)))


def _scale(block: Block, model: ChatGLM2, factors: Callable[[int], Tensor]) -> None:
    shape = model.shape
    attention, mlp = block.self_attention, block.mlp
    for norm, linear in (
        (block.input_layernorm, attention.query_key_value),
        (block.post_attention_layernorm, mlp.dense_h_to_4h),
    ):
        scale_D = factors(shape.hidden)
        norm.weight.mul_(scale_D)
        linear.weight.div_(scale_D)
    value_rows = slice(-shape.groups * shape.channels, None)
    scale_GC = factors(shape.groups * shape.channels).view(shape.groups, shape.channels)
    attention.query_key_value.weight[value_rows].mul_(scale_GC.view(-1, 1))
    attention.query_key_value.bias[value_rows].mul_(scale_GC.flatten())
    attention.dense.weight.div_(_for_each_head(scale_GC, shape.heads // shape.groups))
    scale_F = factors(shape.ffn)
    mlp.dense_h_to_4h.weight[shape.ffn :].mul_(scale_F.view(-1, 1))
    mlp.dense_4h_to_h.weight.div_(scale_F)


def _for_each_head(scale_GC: Tensor, heads_per_group: int) -> Tensor:
    return scale_GC.repeat_interleave(heads_per_group, dim=0).flatten()
