"""What a pass over calibration data leaves behind of a linear layer's inputs.

Shape suffixes: T tokens, K input columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LayerStats:
    """The second moment of a linear's inputs.

    Attributes:
        hessian_KK: float32, mean of ``x xᵀ`` over tokens (GPTQ, arXiv:2210.17323, §3, up to a factor of 2).
        num_tokens: tokens the mean is over.
    """

    hessian_KK: Tensor
    num_tokens: int


class HessianAccumulator:
    """Adds up ``x xᵀ`` batch by batch; ``result`` gives the mean."""

    def __init__(self, columns: int) -> None:
        self._sum_KK = torch.zeros(columns, columns)
        self._num_tokens = 0

    def add(self, x: Tensor) -> None:
        """``x``: inputs ``[..., K]`` of any float dtype."""
        x_TK = x.flatten(0, -2).float()
        self._sum_KK.addmm_(x_TK.T, x_TK)
        self._num_tokens += x_TK.shape[0]

    def result(self) -> LayerStats:
        return LayerStats(self._sum_KK / max(self._num_tokens, 1), self._num_tokens)


@dataclass(frozen=True, eq=False)
class InputRange:
    """Per-column size of a tensor over tokens: ``absmax_K`` and ``mean_square_K``, float32."""

    absmax_K: Tensor
    mean_square_K: Tensor


class RangeAccumulator:
    """Adds up absolute maxima and squares batch by batch; ``result`` gives an :class:`InputRange`."""

    def __init__(self, columns: int) -> None:
        self._absmax_K = torch.zeros(columns)
        self._square_sum_K = torch.zeros(columns, dtype=torch.float64)
        self._num_tokens = 0

    def add(self, x: Tensor) -> None:
        """``x``: values ``[..., K]`` of any float dtype."""
        x_TK = x.flatten(0, -2).float()
        self._absmax_K = torch.maximum(self._absmax_K, x_TK.abs().amax(0))
        self._square_sum_K += x_TK.square().sum(0, dtype=torch.float64)
        self._num_tokens += x_TK.shape[0]

    def result(self) -> InputRange:
        return InputRange(self._absmax_K, (self._square_sum_K / max(self._num_tokens, 1)).float())
