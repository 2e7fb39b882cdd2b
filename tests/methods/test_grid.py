"""Scales and zero points against formulas written out, and the search over clip ratios against an exhaustive one."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from glmquant.core.qtensor import spread
from glmquant.core.spec import QuantSpec
from glmquant.methods.grid import CLIP_RATIOS, encode, range_grid, search_grid, whole_bytes
from tests.methods.test_gptq import SPECS, layer

ALL = [*SPECS, QuantSpec(2, 64, False), QuantSpec(8, 128, True)]


def test_a_symmetric_scale_is_the_largest_weight_over_the_largest_code() -> None:
    weight = torch.tensor([[0.5, -7.0, 3.0, 0.0] * 8, [0.25] * 32])
    scales, zeros = range_grid(weight, QuantSpec(4, 16))
    assert scales.tolist() == [[1.0, 1.0], [pytest.approx(0.25 / 7, rel=1e-3)] * 2]
    assert zeros.tolist() == [[8, 8], [8, 8]]


def test_an_asymmetric_range_is_widened_to_hold_zero() -> None:
    weight = torch.tensor([[3.0, 6.0] * 8, [-6.0, -3.0] * 8, [-5.0, 10.0] * 8])
    scales, zeros = range_grid(weight, QuantSpec(4, 16, symmetric=False))
    assert scales.flatten().tolist() == pytest.approx([0.4, 0.4, 1.0], rel=1e-3)
    assert zeros.flatten().tolist() == [0, 15, 5]


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_codes_are_those_of_the_nearest_value(spec: QuantSpec) -> None:
    weight, _ = layer(rows=5)
    grid = range_grid(weight, spec)
    quantized = encode(weight, *grid, spec)
    scales, zeros = (spread(of, spec.width(200), 200) for of in grid)
    values = (torch.arange(spec.max_code + 1) - zeros.unsqueeze(-1)) * scales.unsqueeze(-1)
    distance = (values - weight.unsqueeze(-1)).abs()
    chosen = distance.gather(-1, quantized.codes_NK.long().unsqueeze(-1)).squeeze(-1)
    assert (chosen <= distance.amin(-1) * (1 + 1e-5)).all()


@example([float(torch.tensor(1e-5).half())], QuantSpec(8, 64))
@given(st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=40), st.sampled_from(ALL))
def test_full_range_leaves_at_most_half_a_step(row: list[float], spec: QuantSpec) -> None:
    weight = torch.tensor([row])
    scales, zeros = range_grid(weight, spec)
    error = (encode(weight, scales, zeros, spec).dequantize() - weight).abs()
    step = spread(scales, spec.width(len(row)), len(row))
    # Scales are stored in float16: a part in 2,048, or 2^-25 where they are as small as 1e-7. An asymmetric zero point
    # is rounded to a code as well.
    allowed = step * (0.5 if spec.symmetric else 1.0) + weight.abs() / 1000 + spec.max_code * 2.0**-25
    assert (error <= allowed).all()


def test_a_group_of_zeros_stays_zero() -> None:
    for spec in ALL:
        weight = torch.zeros(2, 200)
        for grid in (range_grid(weight, spec), search_grid(weight, spec, torch.ones(200))):
            assert not encode(weight, *grid, spec).dequantize().any()


def test_codes_become_whole_bytes() -> None:
    codes = torch.arange(256.0)
    assert whole_bytes(codes, QuantSpec(8, 16)).tolist() == list(range(256))
    assert whole_bytes(codes[:16], QuantSpec(4, 16)).tolist() == list(range(16))


def test_an_outlier_that_does_not_matter_is_clipped() -> None:
    weight = torch.full((1, 32), 0.5)
    weight[0, 0] = 1.0
    importance = torch.ones(32)
    importance[0] = 0
    full, _ = range_grid(weight, QuantSpec(2, 32))
    clipped, _ = search_grid(weight, QuantSpec(2, 32), importance)
    assert min(CLIP_RATIOS) <= float(clipped / full) < 0.6


def weighted_error(
    weight: torch.Tensor, spec: QuantSpec, importance: torch.Tensor, grid: tuple[torch.Tensor, torch.Tensor]
) -> float:
    return float(((encode(weight, *grid, spec).dequantize() - weight).square() * importance).sum())


def test_searched_scales_have_the_smaller_weighted_error() -> None:
    weight, stats = layer()
    spec = QuantSpec(4, 64, True)
    importance = stats.hessian_KK.diagonal()
    searched, full_range = (
        weighted_error(weight, spec, importance, grid)
        for grid in (search_grid(weight, spec, importance), range_grid(weight, spec))
    )
    assert searched < 0.95 * full_range


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_the_search_is_as_good_as_one_of_all_fine_steps(spec: QuantSpec) -> None:
    weight, stats = layer()
    importance = stats.hessian_KK.diagonal()
    all_fine_steps = [1 - step / 40 for step in range(25)]
    refined, exhaustive = (
        weighted_error(weight, spec, importance, grid)
        for grid in (
            search_grid(weight, spec, importance),
            search_grid(weight, spec, importance, all_fine_steps, refinements=()),
        )
    )
    assert refined < 1.005 * exhaustive
