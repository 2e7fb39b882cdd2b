"""Coordinate descent on codes that are already good: each in turn moves to the best value given all others.

Rounding once, as GPTQ does, fixes each code before the later ones are known. Here ``e H eᵀ`` is lowered further: with
the error ``e = w - q`` and the residual ``r = e H``, the best ``q_k`` given the others is the code nearest to
``q_k + r_k / H_kk`` (the update of QuantEase, arXiv:2309.01885, §3). Scales may take part: with ``c`` a group's codes
less its zero point, and zero for columns of other groups, its best scale given all else is ``s + r cᵀ / (c H cᵀ)``
(arXiv:2602.02126, second stage). No step raises the objective.

Shape suffixes: N output rows, K input columns, G groups along K, W columns of a group, P columns of a panel.
"""

import torch
from torch import Tensor

from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_shares
from glmquant.core.qtensor import QuantTensor, storable

PANEL_COLUMNS = 64
ROWS_AT_ONCE = 2048


def descend(
    weight_NK: Tensor,
    quantized: QuantTensor,
    hessian_KK: Tensor,
    ridge_K: Tensor,
    sweeps: int,
    *,
    scales: bool = False,
) -> QuantTensor:
    """``quantized`` with better codes, after ``sweeps`` passes over all columns; zero points stay.

    Args:
        weight_NK: what ``quantized`` stands for, any float dtype.
        hessian_KK: float32, not damped.
        ridge_K: what damping adds to its diagonal, above zero.
        scales: each group's moves after its codes; else they stay.
    """
    parts = []
    for start in range(0, weight_NK.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        part = _Descent(weight_NK[rows].float(), quantized.rows(rows.start, rows.stop), hessian_KK, ridge_K)
        for _ in range(sweeps):
            part.sweep(scales=scales)
        parts.append(part.result())
    return QuantTensor.stack(parts)


class _Descent:
    """Of some rows; columns are kept as contiguous rows. ``residual_KN`` is ``e H`` with the damped ``H``."""

    def __init__(self, weight_NK: Tensor, quantized: QuantTensor, hessian_KK: Tensor, ridge_K: Tensor) -> None:
        columns = weight_NK.shape[1]
        self._quantized, self._hessian_KK, self._ridge_K = quantized, hessian_KK, ridge_K
        self._width = quantized.spec.width(columns)
        self._codes_KN = quantized.codes_NK.T.float().contiguous()
        self._scales_GN = quantized.scales_NG.T.contiguous()
        errors_KN = (weight_NK - quantized.dequantize()).T
        with float32_products(hessian_KK.device, exact=True):
            self._residual_KN = torch.addmm(errors_KN * ridge_K.unsqueeze(1), hessian_KK, errors_KN)

    def sweep(self, *, scales: bool) -> None:
        columns = len(self._codes_KN)
        groups = [slice(start, min(start + self._width, columns)) for start in range(0, columns, self._width)]
        for start in range(0, columns, PANEL_COLUMNS):
            panel = slice(start, min(start + PANEL_COLUMNS, columns))
            self._move_codes(panel)
            for group, of_group in enumerate(groups):
                if scales and panel.start < of_group.stop <= panel.stop:
                    self._move_scales(of_group, group)

    def result(self) -> QuantTensor:
        codes_NK = self._codes_KN.T.to(torch.uint8).contiguous()
        return QuantTensor(codes_NK, self._scales_GN.T.contiguous(), self._quantized.zeros_NG, self._quantized.spec)

    def _move_codes(self, panel: slice) -> None:
        damped_PP = self._damped(panel)
        group_P = torch.arange(panel.start, panel.stop, device=damped_PP.device) // self._width
        moved_PN = torch.empty_like(self._codes_KN[panel])
        max_code = self._quantized.spec.max_code

        def move(part: slice) -> None:
            codes_PN, residual_PN = self._codes_KN[panel, part], self._residual_KN[panel, part].clone()
            scales_PN = self._scales_GN[:, part].index_select(0, group_P)
            moved_PN[:, part] = _descend_panel(codes_PN, scales_PN, residual_PN, damped_PP, max_code)

        over_shares(move, self._codes_KN.shape[1], self._codes_KN.device)
        self._subtract(panel, moved_PN)

    def _move_scales(self, columns: slice, group: int) -> None:
        steps_WN = self._codes_KN[columns] - self._quantized.zeros_NG[:, group].float()
        with float32_products(steps_WN.device, exact=True):
            damped_WN = self._damped(columns) @ steps_WN
        curvature_N = (steps_WN * damped_WN).sum(0)
        slope_N = (steps_WN * self._residual_KN[columns]).sum(0)
        scale_N = self._scales_GN[group]
        better_N = storable(scale_N + torch.where(curvature_N > 0, slope_N / curvature_N, 0))
        self._subtract(columns, steps_WN.mul_(better_N - scale_N))
        scale_N.copy_(better_N)

    def _damped(self, columns: slice) -> Tensor:
        damped_PP = self._hessian_KK[columns, columns].clone()
        damped_PP.diagonal().add_(self._ridge_K[columns])
        return damped_PP

    def _subtract(self, columns: slice, moved_PN: Tensor) -> None:
        """From the errors of some columns, by which their weights moved."""
        with float32_products(moved_PN.device, exact=True):
            self._residual_KN.addmm_(self._hessian_KK[:, columns], moved_PN, alpha=-1)
        self._residual_KN[columns].addcmul_(moved_PN, self._ridge_K[columns].unsqueeze(1), value=-1)


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
