"""Cholesky factors, and what they solve, panel by panel: nearly all the work is in large products.

LAPACK's own functions round as the number of threads has it, and take several times as long on some processors. Here
they see a panel's corner alone, in one thread.

Shape suffixes: N rows, K columns, P columns of a panel.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from glmquant.core.matmul import float32_products
from glmquant.core.parallel import one_thread, over_strips

PANEL_COLUMNS = 256


def factorize(matrix_KK: Tensor) -> int:
    """Turns the lower half of a symmetric float32 matrix into its Cholesky factor; what lies above becomes zero.

    Gives the leading minor that is not positive, or 0.
    """
    for panel in _panels(len(matrix_KK)):
        start, stop = panel.start, panel.stop
        done_KP, square_PP = matrix_KK[start:, :start], matrix_KK[panel, panel]
        with float32_products(matrix_KK.device, exact=True):
            matrix_KK[start:, panel].addmm_(done_KP, matrix_KK[panel, :start].T, alpha=-1)
        with one_thread():
            corner_PP, failed_at = torch.linalg.cholesky_ex(square_PP)
        if failed_at:
            minor: int = start + int(failed_at)
            return minor
        _divide(matrix_KK[stop:, panel], corner_PP.T, upper=True)
        square_PP.copy_(corner_PP)
        matrix_KK[panel, stop:] = 0
    return 0


def solve(factor_KK: Tensor, right_NK: Tensor) -> Tensor:
    """``X`` with ``X (L Lᵀ) = right_NK``, in place of ``right_NK``; float32."""
    panels = list(_panels(len(factor_KK)))
    for panel in panels:
        done, corner_PP = slice(0, panel.start), factor_KK[panel, panel]
        with float32_products(right_NK.device, exact=True):
            right_NK[:, panel].addmm_(right_NK[:, done], factor_KK[panel, done].T, alpha=-1)
        _divide(right_NK[:, panel], corner_PP.T, upper=True)
    for panel in reversed(panels):
        done, corner_PP = slice(panel.stop, None), factor_KK[panel, panel]
        with float32_products(right_NK.device, exact=True):
            right_NK[:, panel].addmm_(right_NK[:, done], factor_KK[done, panel], alpha=-1)
        _divide(right_NK[:, panel], corner_PP, upper=False)
    return right_NK


def _panels(columns: int) -> Iterator[slice]:
    return (slice(start, min(start + PANEL_COLUMNS, columns)) for start in range(0, columns, PANEL_COLUMNS))


def _divide(rows_NP: Tensor, corner_PP: Tensor, *, upper: bool) -> None:
    """``rows_NP`` times the inverse of a triangular corner, in place."""

    def strip(part: slice) -> None:
        rows_NP[part] = torch.linalg.solve_triangular(corner_PP, rows_NP[part], upper=upper, left=False)

    over_strips(strip, len(rows_NP), len(corner_PP), rows_NP.device)
