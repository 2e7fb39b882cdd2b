import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from glmquant.core.exact_sum import ExactSum, Grid
from glmquant.core.stats import ErrorAccumulator, HessianAccumulator

TOKENS = 37


def leaves_of(seed: int, spread: int, count: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Inputs whose columns differ in size by up to ``2^spread``, and the second moments of runs of them, float32."""
    generator = torch.Generator().manual_seed(seed)
    sizes_K = torch.exp2(torch.randint(-spread, spread + 1, (6,), generator=generator).float())
    x_TK = torch.randn(TOKENS, 6, generator=generator) * sizes_K
    return x_TK, x_TK.abs().amax(0), [part.T @ part for part in x_TK.tensor_split(count)]


def summed(grid: Grid, leaves: list[Tensor]) -> ExactSum:
    total = ExactSum(grid)
    for leaf in leaves:
        total.take(leaf.clone())
    return total


@given(seed=st.integers(0, 2**31), spread=st.integers(0, 40), count=st.integers(1, 7), data=st.data())
def test_any_order_and_any_grouping_give_the_same_sum(seed: int, spread: int, count: int, data: st.DataObject) -> None:
    _, absmax_K, leaves = leaves_of(seed, spread, count)
    grid = Grid.within(absmax_K, absmax_K, TOKENS)
    whole = summed(grid, leaves).units_NK
    order = data.draw(st.permutations(leaves))
    cut = data.draw(st.integers(0, count))
    two = summed(grid, order[:cut]).units_NK + summed(grid, order[cut:]).units_NK
    assert torch.equal(whole, two)


@given(seed=st.integers(0, 2**31), spread=st.integers(0, 40), count=st.integers(1, 7))
def test_the_mean_is_as_near_as_float32_can_be(seed: int, spread: int, count: int) -> None:
    x_TK, absmax_K, leaves = leaves_of(seed, spread, count)
    out = torch.empty(6, 6)
    summed(Grid.within(absmax_K, absmax_K, TOKENS), leaves).mean_into(out, TOKENS)
    expected = x_TK.double().T @ x_TK.double() / TOKENS
    scale = absmax_K.double().outer(absmax_K.double())
    assert ((out.double() - expected).abs() <= 1e-6 * scale).all()


@pytest.mark.parametrize("size", [1.0, 1.9999999, 2.0**-60, 2.0**40])
@pytest.mark.parametrize("tokens", [1, 2, 3, 2**20, 2**20 + 1, 10**7])
def test_the_largest_sums_there_can_be_are_still_exact(size: float, tokens: int) -> None:
    """All inputs at their bound and alike, each leaf 2 % too large, as rounded operands may make it."""
    absmax_K = torch.full((2,), size)
    total = ExactSum(Grid.within(absmax_K, absmax_K, tokens))
    for count in (tokens // 2, tokens - tokens // 2):
        total.take(torch.full((2, 2), 1.02 * size * size * count))
    assert (total.units_NK <= 2**53).all()
    assert torch.equal(total.units_NK, total.units_NK.round())


def test_without_a_grid_the_order_shows() -> None:
    _, _, leaves = leaves_of(3, 8, 7)
    found = {sum(order[1:], order[0].clone()).numpy().tobytes() for order in itertools.permutations(leaves[:5])}
    assert len(found) > 1


def test_a_unit_that_is_too_small_rounds() -> None:
    """What the claim's bound is for."""
    leaves = [torch.full((1, 1), value) for value in (1.0, 2.0**-53, 2.0**-53)]
    for bound, sums in ((1.0, 1), (2.0**-10, 2)):
        grid = Grid.within(torch.full((1,), bound), torch.full((1,), bound), 3)
        found = {float(summed(grid, list(order)).units_NK) for order in itertools.permutations(leaves)}
        assert len(found) == sums


@pytest.mark.parametrize("columns", [8, 300])
def test_accumulators_do_not_depend_on_how_leaves_are_dealt_out(columns: int) -> None:
    x = torch.randn(6, 40, columns, generator=torch.Generator().manual_seed(0))
    x[:, :, 3] = 0
    absmax_K = x.abs().amax((0, 1))
    grid = Grid.within(absmax_K, absmax_K, 240)
    found = []
    for order in (range(6), reversed(range(6))):
        hessian, error = HessianAccumulator(columns, grid=grid), ErrorAccumulator(columns, columns, grid=grid)
        for leaf in order:
            hessian.add(x[leaf])
            error.add(x[leaf], x[leaf])
            hessian.end_leaf()
            error.end_leaf()
        found.append((hessian.result().hessian_KK, error.result()))
    flat = x.flatten(0, 1).double()
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one.double(), flat.T @ flat / 240, atol=2e-2, rtol=2e-2)
