"""Round to nearest against its formula, element by element."""

import pytest
import torch

from glmquant.core.spec import QuantSpec
from glmquant.methods import Rtn
from glmquant.methods.grid import range_grid
from tests.methods.test_gptq import SPECS, layer


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_weight_goes_to_its_nearest_code(spec: QuantSpec) -> None:
    weight, _ = layer(rows=3, columns=70)
    quantized = Rtn().quantize(weight, spec, None)
    scales, zeros = range_grid(weight, spec)
    for row in range(3):
        for column in range(70):
            group = column // spec.width(70)
            steps = round(float(weight[row, column] / scales[row, group])) + int(zeros[row, group])
            assert int(quantized.codes_NK[row, column]) == min(max(steps, 0), spec.max_code)
    assert torch.equal(quantized.scales_NG, scales)
    assert torch.equal(quantized.zeros_NG, zeros.to(torch.uint8))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rows_do_not_depend_on_each_other(spec: QuantSpec) -> None:
    weight, _ = layer()
    whole = Rtn().quantize(weight, spec, None)
    part = Rtn().quantize(weight[5:9], spec, None)
    assert torch.equal(part.codes_NK, whole.codes_NK[5:9])
    assert torch.equal(part.scales_NG, whole.scales_NG[5:9])


def test_it_takes_no_account_of_inputs() -> None:
    weight, stats = layer()
    spec = QuantSpec(4, 32)
    assert not Rtn.needs_hessian
    assert torch.equal(Rtn().quantize(weight, spec, stats).codes_NK, Rtn().quantize(weight, spec, None).codes_NK)


def test_weights_may_be_of_half_precision() -> None:
    weight, _ = layer()
    spec = QuantSpec(8, 64)
    half = Rtn().quantize(weight.half(), spec, None)
    assert torch.equal(half.codes_NK, Rtn().quantize(weight.half().float(), spec, None).codes_NK)
