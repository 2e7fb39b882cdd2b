import pytest
import torch
from torch import Tensor

from glmquant.core.cholesky import factorize, solve


def positive(columns: int) -> Tensor:
    x = torch.randn(2 * columns, columns, generator=torch.Generator().manual_seed(columns))
    return x.T @ x / len(x) + 0.01 * torch.eye(columns)


@pytest.mark.parametrize("columns", [1, 255, 256, 257, 700])
def test_a_factor_is_lapacks_and_solves_what_lapack_solves(columns: int) -> None:
    matrix_KK = positive(columns)
    factor_KK = matrix_KK.clone()
    assert factorize(factor_KK) == 0
    torch.testing.assert_close(factor_KK, torch.linalg.cholesky(matrix_KK), atol=1e-4, rtol=1e-4)
    right_NK = torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.solve(matrix_KK.double(), right_NK.double(), left=False).float()
    torch.testing.assert_close(solve(factor_KK, right_NK.clone()), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("bad", [0, 255, 256, 300])
def test_the_leading_minor_that_is_not_positive_is_named(bad: int) -> None:
    matrix_KK = torch.eye(400)
    matrix_KK[bad, bad] = -1
    assert factorize(matrix_KK) == bad + 1
