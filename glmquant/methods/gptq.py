"""GPTQ, in its nearest-plane form.

GPTQ (arXiv:2210.17323, Algorithm 1) rounds the columns of ``W`` one after the other and spreads each column's error
over the columns not yet rounded, through the Cholesky factor of the *inverse* Hessian. Read backwards it is Babai's
nearest-plane algorithm on the Cholesky factor ``L`` of the Hessian itself (arXiv:2507.18553, §4): with ``H = L Lᵀ`` and
``e = w - q``,

    e H eᵀ = Σ_i (Σ_{j ≥ i} e_j L_ji)²

so, going from the last column to the first, the best ``q_i`` given the later ones is the code nearest to
``w_i + Σ_{j > i} e_j L_ji / L_ii``. The codes are GPTQ's (in exact arithmetic); the work is one Cholesky factorization
instead of a factorization, an inverse and another factorization.

Shape suffixes: N output rows, K input columns, G groups along K, P columns of a leaf.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.config import JsonDict
from torch import Tensor

from glmquant.core.cholesky import factorize
from glmquant.core.matmul import float32_products
from glmquant.core.parallel import over_shares
from glmquant.core.qtensor import QuantTensor
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import LayerStats
from glmquant.errors import QuantizationError, RecipeError
from glmquant.methods.coordinate_descent import descend
from glmquant.methods.grid import range_grid, search_grid

LEAF_COLUMNS = 32
STRIP_ROWS = 256
ROWS_AT_ONCE = 2048
MOST_RELATIVE_DAMPING = 10
MOST_SWEEPS = 20
SHARE: JsonDict = {"unit": "share"}


@dataclass(frozen=True)
class Gptq:
    """GPTQ with static groups, so that no ``g_idx`` is needed at inference.

    ``relative_damping`` keeps codes from being fitted to correlations of the calibration text that other text does not
    have.

    Raises:
        RecipeError: an option out of range.
    """

    damping: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="Added to the Hessian's diagonal, as a share of the diagonal's mean (GPTQ, arXiv:2210.17323, "
            "§3.3).",
            json_schema_extra=SHARE,
        ),
    ] = 0.01
    relative_damping: Annotated[
        float,
        Field(
            ge=0,
            le=MOST_RELATIVE_DAMPING,
            description="Added to each element of the Hessian's diagonal, as a share of that element (Marquardt 1963, "
            "doi:10.1137/0111030): the sizes of inputs count as measured, correlations between them for less.",
            json_schema_extra=SHARE,
        ),
    ] = 0.0
    act_order: Annotated[
        bool, Field(description="Act-order: round the columns with the largest inputs first. Groups stay in place.")
    ] = True
    search_scales: Annotated[
        bool,
        Field(
            description="Search each group's clip ratio for the smallest rounding error, weighted by the Hessian's "
            "diagonal; else scales cover the full range."
        ),
    ] = True
    coordinate_descent: Annotated[
        int,
        Field(
            ge=0,
            le=MOST_SWEEPS,
            description="Sweeps of coordinate descent over the codes afterwards, each to its best value given all "
            "others (QuantEase, arXiv:2309.01885).",
            json_schema_extra={"unit": "sweeps"},
        ),
    ] = 0
    refine_scales: Annotated[
        bool,
        Field(
            description="In those sweeps each group's scale moves, too, to its best value given the codes "
            "(arXiv:2602.02126, second stage)."
        ),
    ] = False

    kind: ClassVar[str] = "gptq"
    needs_hessian: ClassVar[bool] = True
    row_by_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise RecipeError(f"damping is {self.damping}", where="method.damping", expected="above 0, at most 1")
        if not 0 <= self.relative_damping <= MOST_RELATIVE_DAMPING:
            raise RecipeError(
                f"relative_damping is {self.relative_damping}",
                where="method.relative_damping",
                expected=f"0 to {MOST_RELATIVE_DAMPING}",
            )
        if not 0 <= self.coordinate_descent <= MOST_SWEEPS:
            raise RecipeError(
                f"coordinate_descent is {self.coordinate_descent}",
                where="method.coordinate_descent",
                expected=f"0 to {MOST_SWEEPS} sweeps",
            )
        if self.refine_scales and not self.coordinate_descent:
            raise RecipeError(
                "refine_scales is set, and coordinate_descent is 0",
                where="method.refine_scales",
                expected="coordinate_descent above 0: scales move in its sweeps",
            )

    def quantize(self, weight_NK: Tensor, spec: QuantSpec, stats: LayerStats | None) -> QuantTensor:
        """See :class:`glmquant.methods.base.Method`.

        Raises:
            QuantizationError: no statistics, inputs that are all zero, or a Hessian that has no Cholesky factor.
        """
        if stats is None or stats.num_tokens == 0:
            raise QuantizationError(
                "gptq was given no statistics of the inputs",
                hint="calibrate first, or use method: {kind: rtn}, which needs none",
            )
        diagonal_K = stats.hessian_KK.diagonal()
        grid = search_grid(weight_NK, spec, diagonal_K) if self.search_scales else range_grid(weight_NK.float(), spec)
        last_to_first_K = self._rounding_order(diagonal_K).flip(0)
        ridge_K = ridge(stats.hessian_KK, self.damping, self.relative_damping)
        factor_KK = cholesky_factor(stats.hessian_KK, ridge_K, last_to_first_K)
        codes_NK = nearest_plane(weight_NK, *grid, spec, factor_KK, last_to_first_K)
        quantized = QuantTensor(codes_NK, grid[0], grid[1].to(torch.uint8), spec)
        if not self.coordinate_descent:
            return quantized
        sweeps, scales = self.coordinate_descent, self.refine_scales
        return descend(weight_NK, quantized, stats.hessian_KK, ridge_K, sweeps, scales=scales)

    def _rounding_order(self, diagonal_K: Tensor) -> Tensor:
        if self.act_order:
            return diagonal_K.argsort(descending=True, stable=True)
        return torch.arange(len(diagonal_K), device=diagonal_K.device)


def ridge(hessian_KK: Tensor, damping: float, relative_damping: float = 0.0) -> Tensor:
    """What damping adds to the Hessian's diagonal, ``[K]``; the options are those of :class:`Gptq`.

    Raises:
        QuantizationError: the inputs are all zero, or not finite.
    """
    diagonal_K = hessian_KK.diagonal()
    mean = diagonal_K.mean()
    if not mean > 0:
        raise QuantizationError(
            "a linear layer's calibration inputs are all zero or not finite",
            expected="inputs that vary",
            hint="see that the checkpoint is whole; where the layer gets no input on purpose, give it a rule of its "
            "own, above the others, with method: {kind: rtn} or keep: true",
        )
    return damping * mean + relative_damping * diagonal_K


def cholesky_factor(hessian_KK: Tensor, ridge_K: Tensor, order_K: Tensor) -> Tensor:
    """The lower Cholesky factor of ``hessian_KK + diag(ridge_K)`` with rows and columns in ``order_K``.

    Raises:
        QuantizationError: the matrix is not positive definite.
    """
    factor_KK = hessian_KK.index_select(0, order_K)
    for rows in factor_KK.split(STRIP_ROWS):
        rows.copy_(rows.index_select(1, order_K))
    factor_KK.diagonal().add_(ridge_K[order_K])
    failed_at = factorize(factor_KK)
    if failed_at:
        raise QuantizationError(
            f"the Hessian is not positive definite (leading minor {failed_at})",
            where="method.damping",
            hint="calibrate on more tokens, or raise damping",
        )
    return factor_KK


def nearest_plane(
    weight_NK: Tensor, scales_NG: Tensor, zeros_NG: Tensor, spec: QuantSpec, factor_KK: Tensor, order_K: Tensor
) -> Tensor:
    """Codes, uint8 ``[N, K]``, rounded from the last entry of ``order_K`` to the first.

    Rows do not depend on each other and go in slices that bound memory; in a slice, columns are kept as contiguous
    rows.

    Args:
        weight_NK: any float dtype, columns in the layer's own order, as are codes and groups.
        scales_NG, zeros_NG: float32, as :func:`glmquant.methods.grid.range_grid` gives them.
        factor_KK: lower Cholesky factor of the damped Hessian, in the order of ``order_K``.
    """
    codes_NK = torch.empty(weight_NK.shape, dtype=torch.uint8, device=weight_NK.device)
    group_K = order_K // spec.width(weight_NK.shape[1])
    for start in range(0, weight_NK.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        weight_KN = weight_NK[rows].float().T[order_K].contiguous()
        rounding = _Rounding(
            factor_KK=factor_KK,
            weight_KN=weight_KN,
            scales_GN=scales_NG[rows].T.contiguous(),
            zeros_GN=zeros_NG[rows].T.contiguous(),
            group_K=group_K,
            max_code=spec.max_code,
            error_terms_KN=torch.zeros_like(weight_KN),
            errors_KN=torch.empty_like(weight_KN),
            codes_KN=torch.empty_like(weight_KN, dtype=torch.uint8),
        )
        rounding.columns(0, weight_KN.shape[0])
        codes_NK[rows, order_K] = rounding.codes_KN.T
    return codes_NK


@dataclass(frozen=True, eq=False)
class _Rounding:
    """``error_terms_KN[i]`` gathers ``Σ_{j > i} e_j L_ji`` over columns rounded before; ``errors_KN[j]`` is ``e_j``."""

    factor_KK: Tensor
    weight_KN: Tensor
    scales_GN: Tensor
    zeros_GN: Tensor
    group_K: Tensor
    max_code: int
    error_terms_KN: Tensor
    errors_KN: Tensor
    codes_KN: Tensor

    def columns(self, start: int, stop: int) -> None:
        """Rounds columns ``[start, stop)``: the right half, its error terms of the left half, the left half."""
        if stop - start <= LEAF_COLUMNS:
            leaf = slice(start, stop)
            over_shares(lambda part: self._leaf(leaf, part), self.weight_KN.shape[1], self.weight_KN.device)
            return
        middle = (start + stop) // 2
        self.columns(middle, stop)
        factors_KK, errors_KN = self.factor_KK[middle:stop, start:middle], self.errors_KN[middle:stop]
        with float32_products(errors_KN.device, exact=True):
            self.error_terms_KN[start:middle].addmm_(factors_KK.T, errors_KN)
        self.columns(start, middle)

    def _leaf(self, leaf: slice, part: slice) -> None:
        """Of some rows, one column after the other, each in as few operations as there can be: they are small, so it is
        their number that takes time.

        With ``z`` and ``s`` of a column's group, ``code = round(w / s + z + error_term / (L s))`` and
        ``e = (w + z s) - code s``.
        """
        factor_PP, groups_P, weight_PN = self.factor_KK[leaf, leaf], self.group_K[leaf], self.weight_KN[leaf, part]
        scale_PN, zero_PN = (of_GN[:, part].index_select(0, groups_P) for of_GN in (self.scales_GN, self.zeros_GN))
        start_PN, raised_PN = weight_PN / scale_PN + zero_PN, torch.addcmul(weight_PN, zero_PN, scale_PN)
        rate_PN = 1 / (factor_PP.diagonal().unsqueeze(1) * scale_PN)
        error_terms_PN, errors_PN = self.error_terms_KN[leaf, part], self.errors_KN[leaf, part]
        codes_PN = torch.empty(weight_PN.shape, device=weight_PN.device)
        columns = zip(
            *(x.unbind() for x in (start_PN, error_terms_PN, rate_PN, raised_PN, scale_PN, codes_PN, errors_PN)),
            strict=True,
        )
        for column, (start_N, error_term_N, rate_N, raised_N, scale_N, code_N, error_N) in reversed(
            list(enumerate(columns))
        ):
            torch.addcmul(start_N, error_term_N, rate_N, out=code_N).round_().clamp_(0, self.max_code)
            torch.addcmul(raised_N, code_N, scale_N, value=-1, out=error_N)
            if column:
                error_terms_PN[:column].addcmul_(factor_PP[column, :column].unsqueeze(1), error_N)
        self.codes_KN[leaf, part] = codes_PN
