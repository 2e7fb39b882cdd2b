"""Choosing scales and zero points, and rounding to them.

Shape suffixes: N output rows, K input columns, G groups along K, W group width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from glmquant.core.parallel import over_strips
from glmquant.core.qtensor import SMALLEST_SCALE, QuantTensor, in_groups, storable
from glmquant.core.spec import QuantSpec

CLIP_RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""What share of a group's range its codes cover; the rest is clipped."""

REFINEMENTS = (0.05, 0.025)
"""Steps by which the best clip ratio so far is then varied, coarse to fine."""


def range_grid(weight_NK: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Scales and zero points, float32 ``[N, G]``, that just cover each group's range: a clip ratio of 1.

    Symmetric: ``scale = absmax / (2 ** (bits - 1) - 1)``. Asymmetric: the range is widened to hold zero, which gets a
    code of its own.

    Args:
        weight_NK: float32.
    """
    return _grid_over(*_range(in_groups(weight_NK, spec), spec), spec, 1.0)


def search_grid(
    weight_NK: Tensor,
    spec: QuantSpec,
    importance_K: Tensor,
    clip_ratios: Sequence[float] = CLIP_RATIOS,
    refinements: Sequence[float] = REFINEMENTS,
) -> tuple[Tensor, Tensor]:
    """Scales and zero points ``[N, G]`` of the clip ratio with the smallest weighted rounding error, group by group.

    The error of a group is ``Σ importance_k (w_k - q_k)²``: with ``importance_K`` the diagonal of the Hessian, the
    output error that rounding alone would cause if inputs were uncorrelated.

    Args:
        weight_NK: any float dtype; the search is in float32.
        importance_K: float32, at least 0.
        clip_ratios: tried first.
        refinements: each is then added to and taken from each group's best ratio.
    """
    importance_GW = in_groups(importance_K.unsqueeze(0), spec)[0]

    def search(part: slice) -> tuple[Tensor, Tensor]:
        return _search_rows(weight_NK[part].float(), spec, importance_GW, clip_ratios, refinements)

    rows, columns = weight_NK.shape
    parts = over_strips(search, rows, columns, weight_NK.device)
    return torch.cat([scales for scales, _ in parts]), torch.cat([zeros for _, zeros in parts])


def encode(weight_NK: Tensor, scales_NG: Tensor, zeros_NG: Tensor, spec: QuantSpec) -> QuantTensor:
    """Rounds every weight to the nearest code of its group.

    Args:
        weight_NK: float32.
        scales_NG: float32, above zero, as :func:`range_grid` or :func:`search_grid` gives them.
        zeros_NG: zero points, whole numbers from 0 to ``spec.max_code``.
    """
    groups_NGW = in_groups(weight_NK, spec)
    codes_NGW = (groups_NGW / scales_NG.unsqueeze(-1)).round_().add_(zeros_NG.unsqueeze(-1)).clamp_(0, spec.max_code)
    codes_NK = whole_bytes(codes_NGW, spec).flatten(1)[:, : weight_NK.shape[1]].contiguous()
    return QuantTensor(codes_NK, scales_NG, zeros_NG.to(torch.uint8), spec)


def whole_bytes(codes: Tensor, spec: QuantSpec) -> Tensor:
    """Codes from float to uint8, any shape, by way of types that torch converts to with vector instructions."""
    if spec.max_code <= torch.iinfo(torch.int8).max:
        return codes.to(torch.int8).view(torch.uint8)
    return codes.to(torch.int32).to(torch.uint8)


def _range(groups_NGW: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value ``[N, G]`` that each group's codes must cover."""
    if spec.symmetric:
        absmax_NG = groups_NGW.abs().amax(-1)
        return -absmax_NG, absmax_NG
    return groups_NGW.amin(-1).clamp(max=0), groups_NGW.amax(-1).clamp(min=0)


def _grid_over(low_NG: Tensor, high_NG: Tensor, spec: QuantSpec, clip_ratio: float | Tensor) -> tuple[Tensor, Tensor]:
    """Scales and zero points of a range clipped to ``clip_ratio`` of it, which may be ``[N, G]``."""
    if spec.symmetric:
        scales_NG = storable(high_NG * (clip_ratio / (spec.middle - 1)))
        return scales_NG, torch.full_like(scales_NG, spec.middle)
    low_NG, high_NG = low_NG * clip_ratio, high_NG * clip_ratio
    scales_NG = storable((high_NG - low_NG) / spec.max_code)
    return scales_NG, (-low_NG / scales_NG).round().clamp(0, spec.max_code)


def _search_rows(
    rows_NK: Tensor,
    spec: QuantSpec,
    importance_GW: Tensor,
    clip_ratios: Sequence[float],
    refinements: Sequence[float],
) -> tuple[Tensor, Tensor]:
    search = _Search(in_groups(rows_NK, spec), spec, importance_GW)
    for ratio in clip_ratios:
        search.offer(torch.full_like(search.clip_ratio_NG, ratio))
    for step in refinements:
        around_NG = search.clip_ratio_NG
        search.offer(around_NG - step)
        search.offer(around_NG + step)
    return search.scales_NG, search.zeros_NG


class _Search:
    """The best grid so far of each group, and its clip ratio."""

    def __init__(self, groups_NGW: Tensor, spec: QuantSpec, importance_GW: Tensor) -> None:
        self._groups_NGW, self._spec, self._importance_GW = groups_NGW, spec, importance_GW
        self._low_NG, self._high_NG = _range(groups_NGW, spec)
        self._work_NGW = torch.empty_like(groups_NGW)
        self._error_NG = torch.full_like(self._high_NG, torch.inf)
        self.clip_ratio_NG = torch.ones_like(self._error_NG)
        self.scales_NG = torch.full_like(self._error_NG, SMALLEST_SCALE)
        self.zeros_NG = torch.full_like(self._error_NG, spec.middle)

    def offer(self, clip_ratio_NG: Tensor) -> None:
        """Takes the clip ratio wherever it lowers a group's error."""
        scales_NG, zeros_NG = _grid_over(self._low_NG, self._high_NG, self._spec, clip_ratio_NG)
        error_NG = self._error(scales_NG, zeros_NG)
        better_NG = error_NG < self._error_NG
        self._error_NG = torch.where(better_NG, error_NG, self._error_NG)
        self.clip_ratio_NG = torch.where(better_NG, clip_ratio_NG, self.clip_ratio_NG)
        self.scales_NG = torch.where(better_NG, scales_NG, self.scales_NG)
        self.zeros_NG = torch.where(better_NG, zeros_NG, self.zeros_NG)

    def _error(self, scales_NG: Tensor, zeros_NG: Tensor) -> Tensor:
        """The weighted error ``[N, G]`` of rounding to that grid."""
        scales, spec = scales_NG.unsqueeze(-1), self._spec
        steps_NGW = torch.div(self._groups_NGW, scales, out=self._work_NGW).round_()
        if spec.symmetric:
            steps_NGW.clamp_(-spec.middle, spec.max_code - spec.middle)
        else:
            zeros = zeros_NG.unsqueeze(-1)
            steps_NGW.add_(zeros).clamp_(0, spec.max_code).sub_(zeros)
        return steps_NGW.mul_(scales).sub_(self._groups_NGW).square_().mul_(self._importance_GW).sum(-1)
