"""Cross-layer equalization: channels brought to even size by factors that cancel exactly, so that groups share scales.

Three places of a block let a channel be scaled without changing what the block computes: a norm's gain and the columns
that read it; a value row and the output columns that read it; an up row and the down columns that read it. The method
is that of Nagel et al. 2019 (arXiv:1906.04721, §4.1); the places are those of SmoothQuant (arXiv:2211.10438, §4) and
AWQ (arXiv:2306.00978, §3.2). Here each factor brings a column to the mean size of its matrix, because a group of
weights shares one scale: what is small beside its neighbors is rounded coarsely. Sizes of activations take no part:
GPTQ weighs columns by them itself. Which places a part has, it says itself (:mod:`glmquant.glm.parts`).

Shape suffixes: N output rows, K input columns, C channels (some columns may read the same one).
"""

import torch
from torch import Tensor

from glmquant.glm.linear import Linear

LARGEST_FACTOR = 64.0
ELEMENTS_AT_ONCE = 1 << 22


def equalize_norm(gain_C: Tensor, linear: Linear) -> tuple[Tensor, Linear]:
    """A norm's gain (in its dtype) and the linear layer that reads it (in float32), equalized.

    Gains are rounded first, so that factors cancel exactly.
    """
    weight_NK = linear.dense()
    evened_C = (gain_C.float() / column_factors(column_sizes(weight_NK))).to(gain_C.dtype)
    factors_C = gain_C.float() / evened_C.float()
    usable_C = torch.isfinite(factors_C) & (factors_C > 0)
    factors_C = torch.where(usable_C, factors_C, 1.0)
    is_own = weight_NK is not linear.weight
    scaled_NK = weight_NK.mul_(factors_C) if is_own else weight_NK * factors_C  # a head is too large for a third copy
    return torch.where(usable_C, evened_C, gain_C), Linear(scaled_NK, linear.bias_N)


def divide_rows(linear: Linear, rows: slice | Tensor, factors_C: Tensor) -> Linear:
    """The layer, in float32, with outputs ``rows`` divided by ``factors_C``."""
    weight_NK = linear.dense().clone()
    weight_NK[rows] /= factors_C.unsqueeze(1)
    bias_N = linear.bias_N
    if bias_N is not None:
        bias_N = bias_N.float().clone()
        bias_N[rows] /= factors_C
    return Linear(weight_NK, bias_N)


def multiply_columns(linear: Linear, factors_K: Tensor) -> Linear:
    """The layer, in float32, for inputs that were divided by ``factors_K``."""
    return Linear(linear.dense() * factors_K, linear.bias_N)


def column_sizes(weight_NK: Tensor) -> Tensor:
    """Root mean square of each column ``[K]``, every row counted alike: a row has scales of its own.

    Args:
        weight_NK: float32; some rows are looked at at a time.
    """
    rows, columns = weight_NK.shape
    total_K = torch.zeros(columns, dtype=torch.float64, device=weight_NK.device)
    for part_NK in weight_NK.split(max(1, ELEMENTS_AT_ONCE // columns)):
        square_NK = part_NK.square()
        row_N = square_NK.mean(1, keepdim=True)
        total_K += square_NK.div_(torch.where(row_N > 0, row_N, 1.0)).sum(0, dtype=torch.float64)
    return (total_K / rows).sqrt().float()


def column_factors(size_C: Tensor) -> Tensor:
    """What brings each size to their geometric mean, within bounds; 1 for channels that are not read at all."""
    read_C = size_C > 0
    logs_C = torch.where(read_C, size_C, 1.0).log()
    mean = logs_C.sum() / read_C.sum().clamp(min=1)
    factors_C = (mean - logs_C).exp().clamp(1 / LARGEST_FACTOR, LARGEST_FACTOR)
    return torch.where(read_C, factors_C, 1.0)
