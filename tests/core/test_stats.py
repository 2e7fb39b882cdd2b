import pytest
import torch

from glmquant.core.matmul import float32_products, forward_dtype
from glmquant.core.stats import (
    AbsmaxAccumulator,
    ErrorAccumulator,
    HessianAccumulator,
    LayerStats,
    mean_square,
    mean_square_output,
)


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


def test_a_token_of_weight_four_counts_like_four_tokens() -> None:
    """A weight that went in twice, or not at all, would fit codes to the wrong tokens, and nothing would show it."""
    x, error = torch.tensor([[1.0, 2.0], [4.0, -1.0]]), torch.tensor([[1.0], [0.5]])
    weights, times = torch.tensor([4.0, 1.0]), torch.tensor([4, 1])
    weighted, repeated = HessianAccumulator(2), HessianAccumulator(2)
    weighted.add(x, weights)
    repeated.add(x.repeat_interleave(times, 0))
    torch.testing.assert_close(weighted.result().hessian_KK * 2, repeated.result().hessian_KK * 5)
    error_weighted, error_repeated = ErrorAccumulator(1, 2), ErrorAccumulator(1, 2)
    error_weighted.add(error, x, weights)
    error_repeated.add(error.repeat_interleave(times, 0), x.repeat_interleave(times, 0))
    torch.testing.assert_close(error_weighted.result() * 2, error_repeated.result() * 5)


def test_means_are_over_all_tokens() -> None:
    """Not over one less, as of a sample's variance: one token's mean is its own product."""
    for tokens in (1, 2):
        hessian, error = HessianAccumulator(2), ErrorAccumulator(1, 2)
        for _ in range(tokens):
            hessian.add(torch.tensor([[2.0, 1.0]]))
            error.add(torch.tensor([[3.0]]), torch.tensor([[2.0, 1.0]]))
        assert hessian.result().hessian_KK.tolist() == [[4, 2], [2, 1]]
        assert error.result().tolist() == [[6, 3]]
    assert mean_square([torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[[2.0, 1.0]]])]).tolist() == [
        pytest.approx(14 / 3),
        pytest.approx(5 / 3),
    ]


def test_without_a_token_means_are_nought() -> None:
    assert HessianAccumulator(2).result().hessian_KK.tolist() == [[0, 0], [0, 0]]
    assert ErrorAccumulator(1, 2).result().tolist() == [[0, 0]]


def test_the_largest_value_of_each_column_is_kept() -> None:
    largest = AbsmaxAccumulator(2)
    largest.add(torch.tensor([[[1.0, -5.0], [-3.0, 2.0]]]))
    largest.add(torch.tensor([[2.0, 1.0]]))
    assert largest.absmax_K.tolist() == [3, 5]
