"""What a pass over calibration data leaves behind of a linear layer's inputs.

Shape suffixes: N output rows, K input columns, T tokens, P part of the columns.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from glmquant.core.device import CPU
from glmquant.core.exact_sum import ExactSum, Grid
from glmquant.core.matmul import float32_products, project
from glmquant.core.ranks import ALONE, Ranks

STRIPS, SMALLEST_STRIP = 8, 128
ELEMENTS_AT_ONCE = 1 << 21


@dataclass(frozen=True, eq=False)
class LayerStats:
    """The second moment of a linear layer's inputs.

    Attributes:
        hessian_KK: float32, mean of ``x xᵀ`` over tokens (GPTQ, arXiv:2210.17323, §3, up to a factor of 2).
        num_tokens: tokens the mean is over.
    """

    hessian_KK: Tensor
    num_tokens: int


class HessianAccumulator:
    """Adds up ``x xᵀ`` batch by batch; ``result`` gives the mean.

    The matrix is symmetric: only the blocks on and below its diagonal are computed, and mirrored at the end.

    Args:
        grid: to add leaves exactly (:mod:`glmquant.core.exact_sum`); without one, batches are added as they come.
    """

    def __init__(self, columns: int, device: torch.device = CPU, grid: Grid | None = None) -> None:
        self._columns, self._device, self._num_tokens = columns, device, 0
        self._strips = [slice(*strip) for strip in _strips(columns)]
        self._sums = [_Sum(torch.zeros(s.stop - s.start, s.stop, device=device), grid, s) for s in self._strips]

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """``x``: inputs ``[..., K]`` of any float dtype; ``weights`` ``[...]``: how much each token counts, else 1."""
        x_TK = rooted(x, weights)
        with float32_products(x_TK.device, exact=False):
            for strip, each in zip(self._strips, self._sums, strict=True):
                each.leaf_PK.addmm_(x_TK[:, strip].T, x_TK[:, : strip.stop])
        self._num_tokens += x_TK.shape[0]

    def end_leaf(self) -> None:
        """What was added since the last one ended is a leaf."""
        for each in self._sums:
            each.end_leaf()

    def result(self, ranks: Ranks = ALONE) -> LayerStats:
        """Of the leaves of all ranks; nothing may be added afterwards."""
        tokens = sum(ranks.gather(self._num_tokens))
        hessian_KK = torch.empty(self._columns, self._columns, device=self._device)
        for strip in self._strips:
            self._sums.pop(0).mean_into(hessian_KK[strip, : strip.stop], max(tokens, 1), ranks)
            hessian_KK[: strip.start, strip] = hessian_KK[strip, : strip.start].T
        return LayerStats(hessian_KK, tokens)


class ErrorAccumulator:
    """Adds up ``d xᵀ`` batch by batch: a linear layer's output error against its inputs; ``result`` gives the mean.

    Args:
        grid: as in :class:`HessianAccumulator`.
    """

    def __init__(self, rows: int, columns: int, device: torch.device = CPU, grid: Grid | None = None) -> None:
        self._sum, self._num_tokens = _Sum(torch.zeros(rows, columns, device=device), grid, slice(0, rows)), 0

    def add(self, error: Tensor, x: Tensor, weights: Tensor | None = None) -> None:
        """``error`` ``[..., N]`` and ``x`` ``[..., K]``; ``weights`` as in :meth:`HessianAccumulator.add`."""
        error_TN, x_TK = error.flatten(0, -2).float(), x.flatten(0, -2).float()
        if weights is not None:
            error_TN = error_TN * weights.flatten().unsqueeze(1)
        with float32_products(x_TK.device, exact=False):
            self._sum.leaf_PK.addmm_(error_TN.T, x_TK)
        self._num_tokens += len(x_TK)

    def end_leaf(self) -> None:
        """As :meth:`HessianAccumulator.end_leaf`."""
        self._sum.end_leaf()

    def result(self, ranks: Ranks = ALONE) -> Tensor:
        """As :meth:`HessianAccumulator.result`."""
        tokens, mean_NK = sum(ranks.gather(self._num_tokens)), torch.empty_like(self._sum.leaf_PK)
        self._sum.mean_into(mean_NK, max(tokens, 1), ranks)
        return mean_NK


class _Sum:
    """A strip of a sum: of the leaf at hand, and where there is a grid of those before."""

    def __init__(self, leaf_PK: Tensor, grid: Grid | None, rows: slice) -> None:
        self.leaf_PK = leaf_PK
        self._exact = None if grid is None else ExactSum(grid.part(rows, leaf_PK.shape[1]))

    def end_leaf(self) -> None:
        if self._exact is not None:
            self._exact.take(self.leaf_PK)

    def mean_into(self, out_PK: Tensor, count: int, ranks: Ranks) -> None:
        if self._exact is None:
            assert ranks.count == 1, "sums of several ranks need a grid"
            torch.div(self.leaf_PK, count, out=out_PK)
            return
        ranks.sum_(self._exact.units_NK)
        self._exact.mean_into(out_PK, count)


def rooted(x: Tensor, weights: Tensor | None) -> Tensor:
    """Inputs ``[..., K]`` times the roots of their tokens' weights, float32 ``[T, K]``."""
    x_TK = x.flatten(0, -2).float()
    return x_TK if weights is None else x_TK * weights.flatten().sqrt().unsqueeze(1)


def mean_square_output(weight_NK: Tensor, stats: LayerStats, dtype: torch.dtype = torch.float32) -> float:
    """``E‖W x‖² = Σ_n w_n H w_nᵀ``, by the lower half of ``H`` alone.

    Args:
        dtype: of the products' operands.
    """
    total = 0.0
    weight_NK = weight_NK.to(dtype)
    for start, stop in _strips(weight_NK.shape[1]):
        strip_PK = stats.hessian_KK[start:stop, :stop].to(dtype, copy=True)
        strip_PK[:, :start] *= 2
        with float32_products(weight_NK.device, exact=True):
            pulled_NK = project(weight_NK[:, start:stop], strip_PK.T)
        rows = max(1, ELEMENTS_AT_ONCE // stop)
        for pulled, weights in zip(pulled_NK.split(rows), weight_NK[:, :stop].split(rows), strict=True):
            total += float((pulled.float() * weights).sum(1, dtype=torch.float64).sum())
    return total


def _strips(columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of a square matrix: enough of them to save nearly half the work, each a large product."""
    step = -(-columns // min(STRIPS, max(1, columns // SMALLEST_STRIP)))
    return ((start, min(start + step, columns)) for start in range(0, columns, step))


class AbsmaxAccumulator:
    """The largest absolute value of each column, batch by batch.

    Attributes:
        absmax_K: float32.
    """

    def __init__(self, columns: int, device: torch.device = CPU) -> None:
        self.absmax_K = torch.zeros(columns, device=device)

    def add(self, x: Tensor) -> None:
        """``x``: values ``[..., K]`` of any float dtype."""
        x_TK = x.flatten(0, -2)
        self.absmax_K = torch.maximum(self.absmax_K, torch.maximum(x_TK.amax(0), -x_TK.amin(0)).float())


def mean_square(inputs: Iterable[Tensor]) -> Tensor:
    """Mean square of each column over all tokens, float32 ``[K]``; each input is ``[..., K]``."""
    sums, tokens = [], 0
    for x in inputs:
        x_TK = x.flatten(0, -2).float()
        sums.append(x_TK.square().sum(0, dtype=torch.float64))
        tokens += len(x_TK)
    return (sum(sums[1:], sums[0]) / max(tokens, 1)).float()
