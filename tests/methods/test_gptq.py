import pytest
import torch

from glmquant.core import parallel
from glmquant.core.spec import QuantSpec
from glmquant.core.stats import HessianAccumulator, LayerStats
from glmquant.errors import QuantizationError, RecipeError
from glmquant.methods import Gptq, Rtn
from glmquant.methods.grid import encode, range_grid, search_grid
from tests.support.reference import gptq_codes, output_error

SPECS = [
    QuantSpec(4, 32, True),
    QuantSpec(4, 16, False),
    QuantSpec(2, -1, False),
    QuantSpec(8, 64, True),
    QuantSpec(4, 128, True),
]


def layer(rows: int = 24, columns: int = 200, tokens: int = 400) -> tuple[torch.Tensor, LayerStats]:
    """A layer whose inputs are correlated and of uneven size, as real ones are. 200 columns leave ragged groups."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(columns, columns, generator=generator) * torch.logspace(-1, 0.5, columns)
    accumulator = HessianAccumulator(columns)
    accumulator.add(torch.randn(tokens, columns, generator=generator) @ mixing)
    return torch.randn(rows, columns, generator=generator), accumulator.result()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize(("act_order", "relative_damping"), [(True, 0.0), (True, 0.5), (False, 0.0)])
def test_codes_are_those_of_the_paper(spec: QuantSpec, act_order: bool, relative_damping: float) -> None:
    weight, stats = layer()
    stats = LayerStats(stats.hessian_KK.double(), stats.num_tokens)  # float64: no ties broken by rounding
    diagonal = stats.hessian_KK.diagonal()
    order = diagonal.argsort(descending=True, stable=True) if act_order else torch.arange(len(diagonal))
    method = Gptq(damping=0.01, relative_damping=relative_damping, act_order=act_order, search_scales=False)
    quantized = method.quantize(weight, spec, LayerStats(stats.hessian_KK.float(), stats.num_tokens))
    grid = range_grid(weight, spec)
    expected = gptq_codes(weight, *grid, spec, stats.hessian_KK, 0.01, relative_damping, order)
    assert (quantized.codes_NK == expected).float().mean() > 0.999


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_output_error_is_smaller_than_that_of_rounding(spec: QuantSpec) -> None:
    weight, stats = layer()
    plain = output_error(weight, Rtn().quantize(weight, spec, None).dequantize(), stats.hessian_KK)
    gptq = output_error(weight, Gptq().quantize(weight, spec, stats).dequantize(), stats.hessian_KK)
    assert gptq < 0.7 * plain


def test_uncorrelated_inputs_leave_plain_rounding() -> None:
    weight, _ = layer()
    spec = QuantSpec(4, 64, True)
    identity = LayerStats(torch.eye(weight.shape[1]), 1)
    codes = Gptq(search_scales=False).quantize(weight, spec, identity).codes_NK
    assert torch.equal(codes, Rtn().quantize(weight, spec, None).codes_NK)


def test_without_statistics_it_refuses() -> None:
    with pytest.raises(QuantizationError, match="no statistics"):
        Gptq().quantize(torch.randn(4, 32), QuantSpec(4, 16), None)


def test_dead_inputs_are_refused() -> None:
    with pytest.raises(QuantizationError, match="all zero"):
        Gptq().quantize(torch.randn(4, 32), QuantSpec(4, 16), LayerStats(torch.zeros(32, 32), 8))


def test_an_indefinite_hessian_is_refused_not_rounded() -> None:
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = 5.0
    with pytest.raises(QuantizationError, match="positive definite"):
        Gptq().quantize(torch.randn(4, 32), QuantSpec(4, 16), LayerStats(hessian, 8))


@pytest.mark.parametrize("damping", [0, -1, 1.5])
def test_damping_out_of_range_is_refused(damping: float) -> None:
    with pytest.raises(RecipeError, match=r"method\.damping"):
        Gptq(damping=damping)


@pytest.mark.parametrize("relative_damping", [-0.1, 11])
def test_relative_damping_out_of_range_is_refused(relative_damping: float) -> None:
    with pytest.raises(RecipeError, match=r"method\.relative_damping"):
        Gptq(relative_damping=relative_damping)


def test_the_more_relative_damping_the_nearer_to_rounding_each_weight_alone() -> None:
    weight, stats = layer()
    spec = QuantSpec(4, 64, True)
    nearest = encode(weight, *search_grid(weight, spec, stats.hessian_KK.diagonal()), spec)
    same = [
        (Gptq(relative_damping=damping).quantize(weight, spec, stats).codes_NK == nearest.codes_NK).float().mean()
        for damping in (0.0, 1.0, 10.0)
    ]
    assert same == sorted(same)
    assert same[0] < 0.7
    assert same[-1] > 0.85


@pytest.mark.parametrize("sweeps", [0, 2])
def test_shares_of_rows_change_no_code(monkeypatch: pytest.MonkeyPatch, sweeps: int) -> None:
    weight, stats = layer(rows=200, columns=96)
    spec, method = QuantSpec(4, 32), Gptq(coordinate_descent=sweeps)

    def codes(smallest: int) -> tuple[torch.Tensor, list[int]]:
        met: list[int] = []
        monkeypatch.setattr(parallel, "SMALLEST_SHARE", smallest)
        monkeypatch.setattr(parallel, "_over", lambda work, rows, *rest: met.append(rest[0]) or over(work, rows, *rest))
        return method.quantize(weight, spec, stats).codes_NK, met

    over = parallel._over
    parallel._strip_pool()  # of as many threads as there are
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    whole, at_once = codes(1 << 20)
    in_shares, steps = codes(1)
    assert torch.equal(whole, in_shares)
    assert parallel.SHARE_STEP in steps
    assert parallel.SHARE_STEP not in at_once
