"""Naive oracles: one element at a time, from the published formulas."""

import torch
from torch import Tensor

from glmquant.core.spec import QuantSpec


def output_error(weight_NK: Tensor, quantized_NK: Tensor, hessian_KK: Tensor) -> float:
    """``tr((W - Q) H (W - Q)ᵀ)``: the mean squared output error summed over outputs."""
    difference_NK = (weight_NK - quantized_NK).double()
    return float(((difference_NK @ hessian_KK.double()) * difference_NK).sum())


def gptq_codes(
    weight_NK: Tensor,
    scales_NG: Tensor,
    zeros_NG: Tensor,
    spec: QuantSpec,
    hessian_KK: Tensor,
    damping: float,
    relative_damping: float,
    order_K: Tensor,
) -> Tensor:
    """GPTQ as its paper writes it (arXiv:2210.17323, Algorithm 1), column by column in float64."""
    rows, columns = weight_NK.shape
    damped = hessian_KK.double()[order_K][:, order_K].clone()
    damped += damping * hessian_KK.double().diagonal().mean() * torch.eye(columns)
    damped += relative_damping * hessian_KK.double().diagonal()[order_K].diag()
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    remaining = weight_NK.double()[:, order_K].clone()
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    for i in range(columns):
        group = int(order_K[i]) // spec.width(columns)
        scale, zero = scales_NG[:, group].double(), zeros_NG[:, group].double()
        code = (torch.round(remaining[:, i] / scale) + zero).clamp(0, spec.max_code)
        codes[:, order_K[i]] = code.to(torch.uint8)
        error = (remaining[:, i] - (code - zero) * scale) / upper[i, i]
        for j in range(i + 1, columns):
            remaining[:, j] -= error * upper[i, j]
    return codes
