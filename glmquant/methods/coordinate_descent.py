"""Coordinate descent on codes that are already good: each in turn moves to the best value given all others.

Rounding once, as GPTQ does, fixes each code before the later ones are known. Here ``e H eᵀ`` is lowered further: with
the error ``e = w - q`` and the residual ``r = e H``, the best ``q_k`` given the others is the code nearest to
``q_k + r_k / H_kk`` (the update of QuantEase, arXiv:2309.01885, §3). No step raises the objective.

Shape suffixes: N output rows, K input columns, G groups along K, P columns of a panel.
"""

import torch
from torch import Tensor

from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_shares
from glmquant.core.qtensor import QuantTensor, spread

PANEL_COLUMNS = 64
ROWS_AT_ONCE = 2048


def descend(weight_NK: Tensor, quantized: QuantTensor, hessian_KK: Tensor, ridge_K: Tensor, sweeps: int) -> QuantTensor:
    """``quantized`` with better codes, after ``sweeps`` passes over all columns; scales and zero points stay.

    Args:
        weight_NK: what ``quantized`` stands for, any float dtype.
        hessian_KK: float32, not damped.
        ridge_K: what damping adds to its diagonal, above zero.
    """
    parts = []
    for start in range(0, weight_NK.shape[0], ROWS_AT_ONCE):
        rows = quantized.rows(start, start + ROWS_AT_ONCE)
        parts.append(_descend_rows(weight_NK[start : start + ROWS_AT_ONCE].float(), rows, hessian_KK, ridge_K, sweeps))
    codes_NK = torch.cat(parts)
    return QuantTensor(codes_NK, quantized.scales_NG, quantized.zeros_NG, quantized.spec)


def _descend_rows(
    weight_NK: Tensor, quantized: QuantTensor, hessian_KK: Tensor, ridge_K: Tensor, sweeps: int
) -> Tensor:
    columns, width = weight_NK.shape[1], quantized.spec.width(weight_NK.shape[1])
    codes_KN = quantized.codes_NK.T.float().contiguous()
    scales_KN = spread(quantized.scales_NG, width, columns).T.contiguous()
    errors_KN = (weight_NK - quantized.dequantize()).T
    ridge_K1 = ridge_K.unsqueeze(1)
    with float32_products(hessian_KK.device, exact=True):
        residual_KN = torch.addmm(errors_KN * ridge_K1, hessian_KK, errors_KN)
    for _ in range(sweeps):
        for start in range(0, columns, PANEL_COLUMNS):
            panel = slice(start, min(start + PANEL_COLUMNS, columns))
            damped_PP = hessian_KK[panel, panel].clone()
            damped_PP.diagonal().add_(ridge_K[panel])
            moved_PN = torch.empty_like(codes_KN[panel])

            def move(
                part: slice, panel: slice = panel, damped_PP: Tensor = damped_PP, moved: Tensor = moved_PN
            ) -> None:
                codes_PN, scales_PN, residual_PN = (x[panel, part] for x in (codes_KN, scales_KN, residual_KN))
                max_code = quantized.spec.max_code
                moved[:, part] = _descend_panel(codes_PN, scales_PN, residual_PN.clone(), damped_PP, max_code)

            over_shares(move, codes_KN.shape[1], codes_KN.device)
            with float32_products(hessian_KK.device, exact=True):
                residual_KN.addmm_(hessian_KK[:, panel], moved_PN, alpha=-1)
            residual_KN[panel].addcmul_(moved_PN, ridge_K1[panel], value=-1)
    return codes_KN.T.to(torch.uint8).contiguous()


def _descend_panel(
    codes_PN: Tensor, scales_PN: Tensor, residual_PN: Tensor, hessian_PP: Tensor, max_code: int
) -> Tensor:
    """Changes ``codes_PN`` in place, and ``residual_PN`` of columns to come; gives by how much each weight moved."""
    moved_PN = torch.empty(codes_PN.shape, device=codes_PN.device)
    rate_PN = 1 / (hessian_PP.diagonal().unsqueeze(1) * scales_PN)
    columns = zip(*(x.unbind() for x in (codes_PN, residual_PN, rate_PN, scales_PN, moved_PN)), strict=True)
    for column, (code_N, residual_N, rate_N, scale_N, moved_N) in enumerate(columns):
        better_N = torch.addcmul(code_N, residual_N, rate_N).round_().clamp_(0, max_code)
        torch.sub(better_N, code_N, out=moved_N).mul_(scale_N)
        code_N.copy_(better_N)
        later = column + 1
        if later < len(codes_PN):
            residual_PN[later:].addcmul_(hessian_PP[later:, column].unsqueeze(1), moved_N, value=-1)
    return moved_PN
