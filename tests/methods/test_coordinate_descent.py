import pytest
import torch

from glmquant.core.qtensor import QuantTensor, spread
from glmquant.core.spec import QuantSpec
from glmquant.errors import RecipeError
from glmquant.methods import Gptq
from glmquant.methods.coordinate_descent import descend
from glmquant.methods.gptq import ridge
from tests.methods.test_gptq import SPECS, layer
from tests.support.reference import output_error

DAMPING = 0.01


def ridge_of(hessian_KK: torch.Tensor) -> torch.Tensor:
    return ridge(hessian_KK, DAMPING, 0.2)


def objective(weight_NK: torch.Tensor, quantized: QuantTensor, hessian_KK: torch.Tensor) -> float:
    damped_KK = hessian_KK + ridge_of(hessian_KK).diag()
    return output_error(weight_NK, quantized.dequantize(), damped_KK)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_sweep_lowers_the_error_gptq_left(spec: QuantSpec) -> None:
    weight, stats = layer()
    quantized = Gptq(damping=DAMPING, relative_damping=0.2).quantize(weight, spec, stats)
    before = objective(weight, quantized, stats.hessian_KK)
    once = descend(weight, quantized, stats.hessian_KK, ridge_of(stats.hessian_KK), 1)
    often = descend(weight, quantized, stats.hessian_KK, ridge_of(stats.hessian_KK), 5)
    assert objective(weight, often, stats.hessian_KK) <= objective(weight, once, stats.hessian_KK) < before
    assert int(often.codes_NK.max()) <= spec.max_code


def test_where_it_ends_no_single_code_can_be_better() -> None:
    weight, stats = layer(rows=3, columns=70)
    spec = QuantSpec(4, 32)
    quantized = descend(weight, Gptq().quantize(weight, spec, stats), stats.hessian_KK, ridge_of(stats.hessian_KK), 20)
    best = objective(weight, quantized, stats.hessian_KK)
    for row in range(3):
        for column in range(70):
            for step in (-1, 1):
                codes = quantized.codes_NK.clone()
                moved = int(codes[row, column]) + step
                if 0 <= moved <= spec.max_code:
                    codes[row, column] = moved
                    other = QuantTensor(codes, quantized.scales_NG, quantized.zeros_NG, spec)
                    assert objective(weight, other, stats.hessian_KK) >= best * (1 - 1e-5)


def test_it_does_as_the_update_written_out() -> None:
    weight, stats = layer(rows=4, columns=70)
    spec = QuantSpec(4, 32)
    quantized = Gptq().quantize(weight, spec, stats)
    hessian = stats.hessian_KK.double() + ridge_of(stats.hessian_KK).double().diag()
    scales, codes = spread(quantized.scales_NG, 32, 70).double(), quantized.codes_NK.double()
    for column in range(70):
        residual = ((weight - (codes - spec.middle) * scales) @ hessian)[:, column]
        step = (residual / (hessian[column, column] * scales[:, column])).round()
        codes[:, column] = (codes[:, column] + step).clamp(0, spec.max_code)
    ours = descend(weight, quantized, stats.hessian_KK, ridge_of(stats.hessian_KK), 1)
    assert (ours.codes_NK.double() == codes).float().mean() > 0.99


def test_the_recipe_asks_for_it_by_sweeps() -> None:
    weight, stats = layer()
    spec = QuantSpec(4, 64)
    plain, refined = (
        Gptq(relative_damping=0.2, coordinate_descent=sweeps).quantize(weight, spec, stats) for sweeps in (0, 3)
    )
    assert objective(weight, refined, stats.hessian_KK) < objective(weight, plain, stats.hessian_KK)
    by_hand = descend(weight, plain, stats.hessian_KK, ridge_of(stats.hessian_KK), 3)
    once = descend(weight, plain, stats.hessian_KK, ridge_of(stats.hessian_KK), 1)
    assert torch.equal(refined.codes_NK, by_hand.codes_NK)
    assert not torch.equal(refined.codes_NK, once.codes_NK)
    for sweeps in (-1, 21):
        with pytest.raises(RecipeError, match=r"method\.coordinate_descent"):
            Gptq(coordinate_descent=sweeps)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_scales_that_take_part_lower_the_error_further(spec: QuantSpec) -> None:
    weight, stats = layer()
    quantized = Gptq(damping=DAMPING, relative_damping=0.2).quantize(weight, spec, stats)
    ridge_K = ridge_of(stats.hessian_KK)
    codes = descend(weight, quantized, stats.hessian_KK, ridge_K, 3)
    both = descend(weight, quantized, stats.hessian_KK, ridge_K, 3, scales=True)
    assert objective(weight, both, stats.hessian_KK) < objective(weight, codes, stats.hessian_KK)
    assert torch.equal(both.scales_NG, both.scales_NG.half().float())
    assert torch.equal(both.zeros_NG, quantized.zeros_NG)
    longer = descend(weight, quantized, stats.hessian_KK, ridge_K, 6, scales=True)
    assert objective(weight, longer, stats.hessian_KK) <= objective(weight, both, stats.hessian_KK) * (1 + 1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_where_it_ends_no_single_scale_can_be_better(symmetric: bool) -> None:
    weight, stats = layer(rows=3, columns=70)
    spec = QuantSpec(4, 32, symmetric=symmetric)
    quantized = Gptq().quantize(weight, spec, stats)
    quantized = descend(weight, quantized, stats.hessian_KK, ridge_of(stats.hessian_KK), 20, scales=True)
    best = objective(weight, quantized, stats.hessian_KK)
    for row in range(3):
        for group in range(3):
            for step in (-4, -1, 1, 4):
                scales = quantized.scales_NG.clone()
                scales[row, group] *= 1 + step * 2**-11
                other = QuantTensor(quantized.codes_NK, scales.half().float(), quantized.zeros_NG, spec)
                assert objective(weight, other, stats.hessian_KK) >= best * (1 - 1e-5)


def test_a_group_whose_codes_are_all_zero_keeps_its_scale() -> None:
    weight, stats = layer(rows=2, columns=64)
    weight[0] = 0
    spec = QuantSpec(4, 32)
    quantized = Gptq().quantize(weight, spec, stats)
    swept = descend(weight, quantized, stats.hessian_KK, ridge_of(stats.hessian_KK), 1, scales=True)
    assert bool((swept.codes_NK[0] == spec.middle).all())
    assert torch.equal(swept.scales_NG[0], quantized.scales_NG[0])
    assert not torch.equal(swept.scales_NG[1], quantized.scales_NG[1])


def test_scales_need_sweeps_to_move_in() -> None:
    with pytest.raises(RecipeError, match=r"method\.refine_scales"):
        Gptq(refine_scales=True)
    weight, stats = layer()
    method = Gptq(relative_damping=0.2, coordinate_descent=2, refine_scales=True)
    plain = Gptq(relative_damping=0.2).quantize(weight, QuantSpec(4, 64), stats)
    by_hand = descend(weight, plain, stats.hessian_KK, ridge_of(stats.hessian_KK), 2, scales=True)
    assert torch.equal(method.quantize(weight, QuantSpec(4, 64), stats).scales_NG, by_hand.scales_NG)
