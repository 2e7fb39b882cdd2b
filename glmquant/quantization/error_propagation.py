"""Error propagation (QEP, arXiv:2504.09629): each linear layer also corrects the error of those quantized before it.

The inputs ``x`` that a linear layer meets come from quantized ones; the float model's are ``x'``. Weights that
give the float outputs from ``x`` as nearly as a linear map can (least squares, ridge ``λ``) are

    W* = W + E[d xᵀ] (E[x xᵀ] + λ I)⁻¹,    d = W x' - W x

(QEP, whose propagation strength scales the correction; GPTAQ, arXiv:2504.02692, §3, starts from the same in another
form). Where the output is added to the residual stream, ``d`` also holds that stream's error, so that each such layer
corrects all before it.

Shape suffixes: N output rows, K input columns.
"""

from dataclasses import replace

import torch
from torch import Tensor

from glmquant.core.cholesky import solve
from glmquant.core.matmul import float32_products
from glmquant.core.stats import ErrorAccumulator, HessianAccumulator, LayerStats
from glmquant.glm.linear import Linear
from glmquant.methods.gptq import cholesky_factor, ridge

DAMPING = 0.1


class LinearFit:
    """Gathers what one linear layer sees, batch by batch.

    Args:
        linear: float.
        strength: how much of the error to correct; 0 needs no reference.
        by_inputs: :meth:`add` gets the inputs' error instead of the outputs'.
    """

    def __init__(self, linear: Linear, strength: float, *, by_inputs: bool) -> None:
        assert isinstance(linear.weight, Tensor)
        rows, columns = linear.weight.shape
        self.columns, self.device, self.num_tokens = columns, linear.weight.device, 0
        self._hessian = HessianAccumulator(columns, linear.weight.device)
        self._strength, self._by_inputs = strength, by_inputs
        self._error = (
            ErrorAccumulator(columns if by_inputs else rows, columns, linear.weight.device) if strength else None
        )

    def add(self, x: Tensor, error: Tensor | None = None, weights: Tensor | None = None) -> None:
        """``x`` ``[..., K]``; ``error`` ``[..., K]`` or ``[..., N]``; ``weights`` ``[...]``."""
        self.num_tokens += x.numel() // self.columns
        self._hessian.add(x, weights)
        if self._error is not None and error is not None:
            self._error.add(error, x, weights)

    def result(self, weight_NK: Tensor) -> tuple[Tensor, LayerStats]:
        """The weights to quantize and the statistics to do it by; nothing may be added afterwards."""
        stats = self._hessian.result()
        if self._error is None:
            return weight_NK, stats
        error = self._error.result()
        if self._by_inputs:
            with float32_products(error.device, exact=False):
                error = weight_NK.float() @ error
        return corrected(weight_NK, stats, error, self._strength), stats


def corrected(weight_NK: Tensor, stats: LayerStats, error_NK: Tensor, strength: float) -> Tensor:
    """``W + strength · E[d xᵀ] (H + λ I)⁻¹``, float32.

    Args:
        error_NK: becomes the correction.

    Raises:
        QuantizationError: inputs that are all zero.
    """
    order_K = torch.arange(weight_NK.shape[1], device=weight_NK.device)
    factor_KK = cholesky_factor(stats.hessian_KK, ridge(stats.hessian_KK, DAMPING), order_K)
    return torch.add(weight_NK.float(), solve(factor_KK, error_NK), alpha=strength)


def without_bias(linear: Linear) -> Linear:
    """The linear layer for differences of inputs."""
    return replace(linear, bias_N=None)
