import pytest
import torch

from glmquant.core.matmul import float32_products, forward_dtype
from glmquant.core.stats import HessianAccumulator, LayerStats, mean_square_output


@pytest.mark.parametrize("columns", [8, 300, 1000])
def test_half_of_the_products_give_the_whole_second_moment(columns: int) -> None:
    x = torch.randn(3, 40, columns, generator=torch.Generator().manual_seed(0))
    accumulator = HessianAccumulator(columns)
    for part in x:
        accumulator.add(part)
    stats = accumulator.result()
    flat = x.flatten(0, 1).double()
    assert stats.num_tokens == 120
    torch.testing.assert_close(stats.hessian_KK.double(), flat.T @ flat / 120, atol=2e-2, rtol=2e-2)
    assert torch.equal(stats.hessian_KK, stats.hessian_KK.T)


@pytest.mark.parametrize("columns", [8, 300, 1000])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_mean_square_output_is_that_of_the_outputs(columns: int, dtype: torch.dtype, within: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, columns, generator=generator), torch.randn(20, columns, generator=generator)
    stats = LayerStats(x.T @ x / 64, 64)
    before = stats.hessian_KK.clone()
    expected = float((x @ weight.T).square().sum(-1).mean())
    assert mean_square_output(weight, stats, dtype) == pytest.approx(expected, rel=within)
    assert torch.equal(stats.hessian_KK, before)


def test_exact_products_keep_every_bit_and_leave_no_trace() -> None:
    fine = torch.full((300, 300), 1 + 2.0**-20)
    before = torch.get_float32_matmul_precision()
    with float32_products(exact=True):
        assert torch.equal(fine @ torch.eye(300), fine)
    assert torch.get_float32_matmul_precision() == before


def test_the_dtype_of_products_is_the_machines() -> None:
    assert forward_dtype() is forward_dtype()
    assert forward_dtype() in (torch.float32, torch.bfloat16)
