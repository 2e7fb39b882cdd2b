"""Choosing scales and zero points, and rounding to them.

Shape suffixes: N output rows, K input columns, G groups along K, W group width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from glmquant.core.qtensor import SMALLEST_SCALE, QuantTensor, in_groups, storable
from glmquant.core.spec import QuantSpec
from glmquant.core.strips import over_strips

SHRINKS = tuple(1 - step / 40 for step in range(25))


def range_grid(weight_NK: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Scales and zero points ``[N, G]`` that just cover each group's range.

    Symmetric: ``scale = absmax / (2 ** (bits - 1) - 1)``. Asymmetric: the range is widened to hold zero, which gets a
    code of its own.
    """
    return _grid_over(*_range(in_groups(weight_NK, spec), spec), spec, 1.0)


def search_grid(
    weight_NK: Tensor, spec: QuantSpec, importance_K: Tensor, shrinks: Sequence[float] = SHRINKS
) -> tuple[Tensor, Tensor]:
    """Scales and zero points ``[N, G]`` with the smallest weighted rounding error among shrunken ranges.

    The error of a group is ``Σ importance_k (w_k - q_k)²``: with ``importance_K`` the diagonal of the Hessian, the
    output error that rounding alone would cause if inputs were uncorrelated.
    """
    importance_GW = in_groups(importance_K.unsqueeze(0), spec)[0]

    def search(part: slice) -> tuple[Tensor, Tensor]:
        return _search_rows(weight_NK[part].float(), spec, importance_GW, shrinks)

    rows, columns = weight_NK.shape
    parts = over_strips(search, rows, columns, weight_NK.device)
    return torch.cat([scales for scales, _ in parts]), torch.cat([zeros for _, zeros in parts])


def encode(weight_NK: Tensor, scales_NG: Tensor, zeros_NG: Tensor, spec: QuantSpec) -> QuantTensor:
    """Rounds every weight to the nearest code of its group."""
    groups_NGW = in_groups(weight_NK, spec)
    codes_NGW = (groups_NGW / scales_NG.unsqueeze(-1)).round_().add_(zeros_NG.unsqueeze(-1)).clamp_(0, spec.max_code)
    codes_NK = whole_bytes(codes_NGW, spec).flatten(1)[:, : weight_NK.shape[1]].contiguous()
    return QuantTensor(codes_NK, scales_NG, zeros_NG.to(torch.uint8), spec)


def whole_bytes(codes: Tensor, spec: QuantSpec) -> Tensor:
    """Codes from float to uint8, by way of types that torch converts to with vector instructions."""
    if spec.max_code <= torch.iinfo(torch.int8).max:
        return codes.to(torch.int8).view(torch.uint8)
    return codes.to(torch.int32).to(torch.uint8)


def _range(groups_NGW: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Of each group, ``[N, G]``: what its codes must reach down and up to."""
    if spec.symmetric:
        absmax_NG = groups_NGW.abs().amax(-1)
        return -absmax_NG, absmax_NG
    return groups_NGW.amin(-1).clamp(max=0), groups_NGW.amax(-1).clamp(min=0)


def _grid_over(low_NG: Tensor, high_NG: Tensor, spec: QuantSpec, shrink: float) -> tuple[Tensor, Tensor]:
    """Scales and zero points of a range that is shrunk first."""
    if spec.symmetric:
        scales_NG = storable(high_NG * (shrink / (spec.middle - 1)))
        return scales_NG, torch.full_like(scales_NG, spec.middle)
    low_NG, high_NG = low_NG * shrink, high_NG * shrink
    scales_NG = storable((high_NG - low_NG) / spec.max_code)
    return scales_NG, (-low_NG / scales_NG).round().clamp(0, spec.max_code)


def _search_rows(
    rows_NK: Tensor, spec: QuantSpec, importance_GW: Tensor, shrinks: Sequence[float]
) -> tuple[Tensor, Tensor]:
    groups_NGW = in_groups(rows_NK, spec)
    low_NG, high_NG = _range(groups_NGW, spec)
    best_NG = torch.full_like(high_NG, torch.inf)
    best_scales_NG = torch.full_like(best_NG, SMALLEST_SCALE)
    best_zeros_NG = torch.full_like(best_NG, spec.middle)
    work_NGW = torch.empty_like(groups_NGW)
    for shrink in shrinks:
        scales_NG, zeros_NG = _grid_over(low_NG, high_NG, spec, shrink)
        scales = scales_NG.unsqueeze(-1)
        steps_NGW = torch.div(groups_NGW, scales, out=work_NGW).round_()
        if spec.symmetric:
            steps_NGW.clamp_(-spec.middle, spec.max_code - spec.middle)
        else:
            zeros = zeros_NG.unsqueeze(-1)
            steps_NGW.add_(zeros).clamp_(0, spec.max_code).sub_(zeros)
        error_NG = steps_NGW.mul_(scales).sub_(groups_NGW).square_().mul_(importance_GW).sum(-1)
        better_NG = error_NG < best_NG
        best_NG = torch.where(better_NG, error_NG, best_NG)
        best_scales_NG = torch.where(better_NG, scales_NG, best_scales_NG)
        best_zeros_NG = torch.where(better_NG, zeros_NG, best_zeros_NG)
    return best_scales_NG, best_zeros_NG
