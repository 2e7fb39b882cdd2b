"""Elementwise functions whose values do not depend on how many threads compute them.

torch deals a tensor's elements to its threads, and its ``sigmoid`` and ``silu`` end each share that is no multiple of a
vector's width with another exponential than they begin with. So shares are fixed here.

Shape suffixes: T rows, W width.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from glmquant.core.parallel import over_strips


def sigmoid(x_TW: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``, in the dtype of ``x_TW``."""
    return _in_strips(torch.sigmoid, x_TW)


def silu(x: Tensor) -> Tensor:
    """``x / (1 + exp(-x))`` (SiLU, arXiv:1702.03118, eq. 8) of ``[..., W]``, in the dtype of ``x``.

    Where gradients are asked for, it is torch's own.
    """
    return functional.silu(x) if x.requires_grad else _in_strips(functional.silu, x.flatten(0, -2)).view(x.shape)


def _in_strips(function: Callable[[Tensor], Tensor], x_TW: Tensor) -> Tensor:
    out_TW = torch.empty(x_TW.shape, dtype=x_TW.dtype, device=x_TW.device)

    def fill(part: slice) -> None:
        out_TW[part] = function(x_TW[part])

    rows, width = x_TW.shape
    over_strips(fill, rows, width, x_TW.device)
    return out_TW
