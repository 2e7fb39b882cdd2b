"""What each linear is fitted to: its inputs as they are, and how far its outputs are from the float model's.

The inputs ``x`` that a linear meets come from linears already quantized; the float model's are ``x'``. Weights that
give the float outputs from ``x`` as nearly as a linear map can (least squares, ridge ``λ``) are

    W* = W + E[d xᵀ] (E[x xᵀ] + λ I)⁻¹,    d = W x' - W x

which is where GPTAQ (arXiv:2504.02692, §3) starts from, in closed form. Where the output is added to the residual
stream, ``d`` also holds what that stream lacks, so that each such linear makes up for all before it.

Shape suffixes: N output rows, K input columns.
"""

from dataclasses import replace

import torch
from torch import Tensor

from glmquant.core.matmul import float32_products
from glmquant.core.stats import DriftAccumulator, HessianAccumulator, LayerStats
from glmquant.glm.linear import Linear
from glmquant.methods.gptq import cholesky_factor, ridge

DAMPING = 0.1


class LinearFit:
    """Gathers what one linear sees, batch by batch.

    Args:
        linear: float.
        compensate: how much of the drift to make up for; 0 needs no reference.
        by_inputs: :meth:`add` gets the inputs' lack instead of the outputs'.
    """

    def __init__(self, linear: Linear, compensate: float, *, by_inputs: bool) -> None:
        assert isinstance(linear.weight, Tensor)
        rows, columns = linear.weight.shape
        self._hessian = HessianAccumulator(columns, linear.weight.device)
        self._compensate, self._by_inputs = compensate, by_inputs
        self._drift = (
            DriftAccumulator(columns if by_inputs else rows, columns, linear.weight.device) if compensate else None
        )

    def add(self, x: Tensor, lack: Tensor | None = None, weights: Tensor | None = None) -> None:
        """``x`` ``[..., K]``; ``lack`` ``[..., K]`` or ``[..., N]``; ``weights`` ``[...]``."""
        self._hessian.add(x, weights)
        if self._drift is not None and lack is not None:
            self._drift.add(lack, x, weights)

    def result(self, weight_NK: Tensor) -> tuple[Tensor, LayerStats]:
        """The weights to quantize and the statistics to do it by; nothing may be added afterwards."""
        stats = self._hessian.result()
        if self._drift is None:
            return weight_NK, stats
        drift = self._drift.result()
        if self._by_inputs:
            with float32_products(drift.device, exact=False):
                drift = weight_NK.float() @ drift
        return compensated(weight_NK, stats, drift, self._compensate), stats


def compensated(weight_NK: Tensor, stats: LayerStats, drift_NK: Tensor, amount: float) -> Tensor:
    """``W + amount · D (H + λ I)⁻¹``, float32.

    Raises:
        QuantizationError: inputs that are all zero.
    """
    order_K = torch.arange(weight_NK.shape[1], device=weight_NK.device)
    factor_KK = cholesky_factor(stats.hessian_KK, ridge(stats.hessian_KK, DAMPING), order_K)
    correction_NK = torch.cholesky_solve(drift_NK.T, factor_KK).T
    return torch.add(weight_NK.float(), correction_NK, alpha=amount)


def without_bias(linear: Linear) -> Linear:
    """The linear for differences of inputs."""
    return replace(linear, bias_N=None)
