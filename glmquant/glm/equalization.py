"""Evening out the columns of a block's linears by factors that cancel exactly, so that groups share scales better.

Three places of a block let a channel be scaled without changing what the block computes: a norm's gain and the columns
that read it; a value row and the output columns that read it; an up row and the down columns that read it (the places
of SmoothQuant, arXiv:2211.10438, §4, and AWQ, arXiv:2306.00978, §3.2). Here each factor brings a column to the mean
size of its matrix, because a group of weights shares one scale: what is small beside its neighbors is rounded
coarsely. Sizes of activations take no part: GPTQ weighs columns by them itself.

Shape suffixes: N output rows, K input columns, C channels (some columns may read the same one).
"""

from dataclasses import replace

import torch
from torch import Tensor

from glmquant.glm.block import Block, Linear
from glmquant.glm.config import GlmConfig

LARGEST_FACTOR = 64.0


def equalize(block: Block, config: GlmConfig) -> Block:
    """The same function with evened columns; weights in float32, norms in the dtype they had.

    Args:
        block: float.
    """
    return _up_to_down(_value_to_output(_norms_to_columns(block.floating(torch.float32)), config))


def equalize_norm(gain_C: Tensor, linear: Linear) -> tuple[Tensor, Linear]:
    """A norm's gain and the linear that reads it, evened. Gains are rounded first, so that factors cancel exactly."""
    weight_NK = linear.dense()
    evened_C = (gain_C.float() / _factors(_sizes(weight_NK))).to(gain_C.dtype)
    factors_C = gain_C.float() / evened_C.float()
    usable_C = torch.isfinite(factors_C) & (factors_C > 0)
    factors_C = torch.where(usable_C, factors_C, 1.0)
    return torch.where(usable_C, evened_C, gain_C), Linear(weight_NK * factors_C, linear.bias_N)


def _norms_to_columns(block: Block) -> Block:
    attention_gain, qkv = equalize_norm(block.input_layernorm, block.qkv_proj)
    mlp_gain, gate_up = equalize_norm(block.post_attention_layernorm, block.gate_up_proj)
    return replace(
        block, input_layernorm=attention_gain, qkv_proj=qkv, post_attention_layernorm=mlp_gain, gate_up_proj=gate_up
    )


def _value_to_output(block: Block, config: GlmConfig) -> Block:
    """Query heads of a group read the same value channels, so their columns share a factor."""
    output_NK = block.o_proj.dense()
    shape = (config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads, config.head_dim)
    size_C = _sizes(output_NK).view(shape).square().mean(1).sqrt().flatten()
    factors_C = _factors(size_C)
    factors_K = factors_C.view(shape[0], 1, shape[2]).expand(shape).flatten()
    values = slice(config.query_rows + config.key_value_rows, None)
    return replace(
        block,
        qkv_proj=_divide_rows(block.qkv_proj, values, factors_C),
        o_proj=Linear(output_NK * factors_K, block.o_proj.bias_N),
    )


def _up_to_down(block: Block) -> Block:
    down_NK = block.down_proj.dense()
    factors_K = _factors(_sizes(down_NK))
    up = slice(down_NK.shape[1], None)
    return replace(
        block,
        gate_up_proj=_divide_rows(block.gate_up_proj, up, factors_K),
        down_proj=Linear(down_NK * factors_K, block.down_proj.bias_N),
    )


def _divide_rows(linear: Linear, rows: slice, factors_C: Tensor) -> Linear:
    weight_NK = linear.dense().clone()
    weight_NK[rows] /= factors_C.unsqueeze(1)
    bias_N = linear.bias_N
    if bias_N is not None:
        bias_N = bias_N.float().clone()
        bias_N[rows] /= factors_C
    return Linear(weight_NK, bias_N)


def _sizes(weight_NK: Tensor) -> Tensor:
    """Root mean square of each column, every row counted alike: a row has scales of its own."""
    square_NK = weight_NK.square()
    row_N = square_NK.mean(1, keepdim=True)
    return (square_NK / torch.where(row_N > 0, row_N, 1.0)).mean(0).sqrt()


def _factors(size_C: Tensor) -> Tensor:
    """What brings each size to their geometric mean, within bounds; 1 for channels that are not read at all."""
    read_C = size_C > 0
    logs_C = torch.where(read_C, size_C, 1.0).log()
    mean = logs_C.sum() / read_C.sum().clamp(min=1)
    factors_C = (mean - logs_C).exp().clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
    return torch.where(read_C, factors_C, 1.0)
