"""What a quantized matrix takes on disk is foretold to the byte: sizes, memory and bits are chosen by it."""

import pytest
import torch

from glmquant.core.packing import pack_bits
from glmquant.core.spec import QuantSpec
from glmquant.methods import Rtn


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group_size", [16, 64, -1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_stored_bytes_are_those_of_codes_scales_and_zero_points(bits: int, group_size: int, symmetric: bool) -> None:
    spec, weight = QuantSpec(bits, group_size, symmetric), torch.randn(8, 192)
    quantized = Rtn().quantize(weight, spec, None)
    parts = [pack_bits(quantized.codes_NK, bits), quantized.scales_NG.half()]
    if not symmetric:
        parts.append(pack_bits(quantized.zeros_NG.T.contiguous(), bits))
    assert spec.stored_bytes(*weight.shape) == sum(part.nbytes for part in parts)


def test_a_row_that_no_group_divides_has_one_group_more() -> None:
    spec = QuantSpec(4, 64, symmetric=False)
    assert [spec.num_groups(columns) for columns in (1, 63, 64, 65, 128)] == [1, 1, 1, 2, 2]
    assert spec.stored_bytes(8, 65) - QuantSpec(4, 64).stored_bytes(8, 65) == 8 * 2 * 4 // 8


def test_codes_reach_from_nought_and_are_symmetric_about_the_middle() -> None:
    assert [(spec.max_code, spec.middle) for spec in map(QuantSpec, (2, 4, 8))] == [(3, 2), (15, 8), (255, 128)]
